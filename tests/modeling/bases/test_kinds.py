"""What can't be trained or asked is told by its name or its config.json, before weights and data are fetched."""

import json

import pytest

import train
from modeling.asking.predictor import Predictor
from processing.errors import UserError
from tests.modeling.bases.conftest import MLM
from tests.support.hub_models import to_json

OPT = "Salesforce/blip2-opt-2.7b"
# model_type, architectures, family of the run, what the sentence says
REFUSED = {
    "Salesforce/blip2-itm-vit-g": (
        ("blip-2", ["Blip2ForImageTextRetrieval"], "blip2"),
        f"a 'Blip2ForImageTextRetrieval', which can't answer; choose {OPT}.",
    ),
    "Salesforce/instructblip-flan-t5-xl": (
        ("instructblip", ["InstructBlipForConditionalGeneration"], "blip2"),
        f"a model of type 'instructblip', not BLIP-2; choose {OPT}.",
    ),
    "Salesforce/blip-vqa-base": (
        ("blip", ["BlipForQuestionAnswering"], "blip2"),
        f"a model of type 'blip', not BLIP-2; choose {OPT}.",
    ),
    "openai/clip-vit-base-patch32": (
        ("clip", ["CLIPModel"], "vilt"),
        f"a model of type 'clip', not ViLT; choose {MLM}.",
    ),
    "llava-hf/llava-1.5-7b-hf": (
        ("llava", ["LlavaForConditionalGeneration"], "blip2"),
        "an image-text-to-text model, not BLIP-2; add --model_type vlm.",
    ),
    "google/paligemma-3b-mix-224": (
        ("paligemma", ["PaliGemmaForConditionalGeneration"], "vlm"),
        "a model of type 'paligemma', not one of smolvlm, idefics3, gemma3, qwen2_5_vl, qwen3_vl, internvl, llava, "
        "llava_onevision; choose HuggingFaceTB/SmolVLM-500M-Instruct.",
    ),
    OPT: (("blip-2", ["Blip2ForConditionalGeneration"], "vilt"), "a BLIP-2 model, not ViLT; add --model_type blip2."),
    MLM: (("vilt", ["ViltForMaskedLM"], "blip2"), "a ViLT model, not BLIP-2; add --model_type vilt."),
}


@pytest.fixture
def no_data(monkeypatch):
    """The data set must not be loaded."""
    monkeypatch.setattr(train, "load_vqa_dataset", lambda *_, **__: pytest.fail("the data set was loaded"))


def refusal(family: str, name: object, folder, *flags: str) -> str:
    """How a run ends."""
    with pytest.raises(UserError) as error:
        train.main(["--model_type", family, "--model_name_or_path", str(name), "--output_dir", str(folder), *flags])
    assert "\n" not in str(error.value)
    assert not folder.exists()
    return str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_model_of_another_kind_is_told_by_its_config_alone(hub, tmp_path, no_data, name):
    (model_type, architectures, family), told = REFUSED[name]
    config = {"model_type": model_type, "architectures": architectures}
    hub.repos[f"models/{name}"] = {"config.json": to_json(config), "model.safetensors": b"x" * 1000}
    assert refusal(family, name, tmp_path / "out") == f"{name}: {told}"
    assert {request.split("/")[-1] for request in hub.requests if "/resolve/" in request} == {"config.json"}


def test_predictor_tells_it_too_before_weights_are_fetched(hub):
    name = "Salesforce/blip2-itm-vit-g"
    config = {"model_type": "blip-2", "architectures": ["Blip2ForImageTextRetrieval"]}
    hub.repos[f"models/{name}"] = {"config.json": to_json(config), "model.safetensors": b"x" * 1000}
    with pytest.raises(UserError, match="Blip2ForImageTextRetrieval', which can't answer"):
        Predictor.from_pretrained(name)
    assert not [request for request in hub.requests if "model.safetensors" in request]


def test_adapter_over_something_else_is_told_by_the_config_of_its_base(hub, tmp_path, no_data):
    base, adapter = "Salesforce/instructblip-flan-t5-xl", "user/adapter"
    hub.repos[f"models/{base}"] = {"config.json": to_json({"model_type": "instructblip"})}
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "target_modules": ["query"]}
    hub.repos[f"models/{adapter}"] = {"adapter_config.json": to_json(config)}
    assert refusal("blip2", adapter, tmp_path / "out").startswith(f"{base}: a model of type 'instructblip'")
    assert refusal("vilt", adapter, tmp_path / "out").startswith(f"{adapter}: an adapter, where a whole model is")


@pytest.mark.parametrize(
    ("family", "name", "flags", "told"),
    [
        ("vilt", "scratch:huge", (), "scratch:huge: unknown size; choose small or tiny."),
        ("vilt", "scratch:tiny", ("--do_train", "False"), "scratch:tiny: an untrained model has nothing to evaluate"),
        (
            "blip2",
            "scratch:tiny",
            (),
            "--model_name_or_path scratch:tiny: scratch: is for ViLT; add --model_type vilt",
        ),
        ("vilt", "starter", ("--model_revision", "v1"), "--model_revision v1: starter is not on the Hub; leave the"),
        ("blip2", "nowhere", (), "nowhere: there is no such folder, and it is no Hub id (user/name); check the path."),
    ],
)
def test_names_that_mean_nothing_are_told_before_the_data(tmp_path, no_data, hub, family, name, flags, told):
    assert refusal(family, name, tmp_path / "out", *flags).startswith(told)
    assert not hub.requests


@pytest.mark.parametrize("family", ["vilt", "blip2"])
def test_ordinary_folder_and_a_folder_with_a_revision_are_told_before_the_data(tmp_path, no_data, family):
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert refusal(family, folder, tmp_path / "out") == (
        f"{folder}: there is no model (no config.json); name the folder or the Hub id of one."
    )
    assert refusal(family, folder, tmp_path / "out", "--model_revision", "v1") == (
        f"{folder}: a folder has no revision v1; leave it out, or give a Hub id."
    )
    for content in ("{torn", "[]", "{}", '{"model_type": 3}', '{"model_type": "vilt", "architectures": "x"}'):
        (folder / "config.json").write_text(content)
        assert refusal(family, folder, tmp_path / "out").startswith(f"{folder}: its config.json is damaged; save or")
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "x.X"}}))
    assert "it needs code of its own, which is never run" in refusal(family, folder, tmp_path / "out")
