"""modeling.blip2.adapter: a training that goes on from a saved adapter."""

import pytest
import torch

from processing.errors import UserError
from tests.modeling.blip2.tiny_runs import trained, untrained
from tests.support.short_runs import weights

WHOLE = {"modules_to_save": ["qformer", "language_projection"], "lora_targets": ["language_model"]}


@pytest.fixture(scope="module")
def saved(bases, dataset, tmp_path_factory):
    """The folder of an adapter."""
    folder = tmp_path_factory.mktemp("adapter") / "saved"
    untrained(bases["opt"], folder, dataset, **WHOLE).save_model()
    return folder


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("opt", {"feature_cache_gb": 0}),
        ("opt", WHOLE | {"feature_cache_gb": 1}),
        ("llama", WHOLE | {"feature_cache_gb": 0}),
        ("t5", {"feature_cache_gb": 1}),
    ],
    ids=["opt", "opt whole cached", "llama whole", "t5 cached"],
)
def test_training_goes_on_from_an_adapter(bases, dataset, tmp_path, kind, options):
    """The starter's: tests/modeling/blip2/test_starter_training.py."""
    first = trained(bases[kind], tmp_path / "first", dataset, **options)
    first.save_model()
    before, tokens = weights(first), first.predict(dataset["validation"]).predictions[0]
    start = untrained(tmp_path / "first", tmp_path / "start", dataset, **options)
    assert weights(start).keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in weights(start).items())
    assert (start.predict(dataset["validation"]).predictions[0] == tokens).all()
    second = trained(tmp_path / "first", tmp_path / "second", dataset, **options)
    second.save_model()
    moved = {name for name, weight in weights(second).items() if not torch.equal(weight, before[name])}
    assert {part for name in moved for part in ("lora_A", "lora_B", "modules_to_save") if part in name} == (
        {"lora_A", "lora_B", "modules_to_save"} if options.get("modules_to_save") else {"lora_A", "lora_B"}
    )
    losses = [
        entry["train_loss"] for run in (first, second) for entry in run.state.log_history if "train_loss" in entry
    ]
    assert losses[1] < losses[0]
    again = untrained(tmp_path / "second", tmp_path / "again", dataset, do_train=False, **options)
    assert not [name for name, p in again.model.named_parameters() if p.requires_grad]
    expected = second.predict(dataset["validation"]).predictions[0]
    assert (again.predict(dataset["validation"]).predictions[0] == expected).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"lora_r": 4},
        {"lora_alpha": 8},
        {"lora_targets": ["dense"], "modules_to_save": None},
        {"modules_to_save": ["language_projection"]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_shape_than_the_adapters_is_refused(saved, dataset, tmp_path, changed):
    name = next(iter(changed))
    with pytest.raises(UserError, match=rf"^--{name} \S+: the adapter .*saved was made with another value, which"):
        untrained(saved, tmp_path, dataset, **(WHOLE | changed))
    untrained(saved, tmp_path, dataset, **WHOLE)
    own = untrained(saved, tmp_path, dataset, lora_dropout=0.5).model.peft_config["default"]
    assert (own.lora_dropout, own.r, sorted(own.modules_to_save)) == (0.5, 8, ["language_projection", "qformer"])
