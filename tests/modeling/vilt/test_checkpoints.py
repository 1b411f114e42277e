"""modeling.vilt.checkpoints: models that are saved, loaded and given new answers, and those that are refused."""

from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

from modeling.parts.model_files import open_model
from modeling.vilt.checkpoints import build_model, check_base, load_checkpoint
from processing.collators import ViltCollator
from processing.errors import UserError
from tests.modeling.vilt.arguments import arguments


@pytest.fixture
def saved(built, tmp_path) -> Path:
    """The folder of a tiny model and its processor."""
    model, processor = built
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_cut_questions_are_counted(dataset, tmp_path, caplog):
    caplog.set_level("INFO")
    longer = dataset["validation"].map(lambda r, i: {"question": "is it " * 50} if i < 2 else r, with_indices=True)
    build_model(arguments(tmp_path), type(dataset)({"train": dataset["train"], "validation": longer}))
    assert "2 validation questions are longer than 40 tokens and are cut." in caplog.text


def test_saved_folder_loads_by_the_auto_classes_with_equal_answers(built, saved, dataset):
    model, processor = built
    assert [f.suffix for f in saved.iterdir() if f.suffix in (".bin", ".pt")] == []
    again = AutoModelForVisualQuestionAnswering.from_pretrained(saved).eval()
    assert type(again) is transformers.ViltForQuestionAnswering
    assert again.config.id2label == model.config.id2label
    sample = dataset["validation"][0]
    auto = AutoProcessor.from_pretrained(saved)
    inputs = auto(Image.open(sample["image"]).convert("RGB"), sample["question"], return_tensors="pt")
    batch = ViltCollator(processor, {"x": 0}, 1, 40)([sample])
    assert inputs["input_ids"].tolist() == batch["input_ids"].tolist()
    with torch.no_grad():
        logits = model.eval()(**{k: v for k, v in batch.items() if k not in ("labels", "row")}).logits
        torch.testing.assert_close(again(**inputs).logits, logits, atol=1e-5, rtol=1e-5)


def test_hub_checkpoint_in_its_older_layout_is_fine_tuned(built, dataset, tmp_path, hub):
    model, processor = built
    model.save_pretrained(tmp_path / "m")
    processor.tokenizer.save_pretrained(tmp_path / "m")
    processor.image_processor.save_pretrained(tmp_path / "m")  # preprocessor_config.json, as in dandelin/vilt-b32-mlm
    hub.repos["models/user/vilt"] = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}
    assert "preprocessor_config.json" in hub.repos["models/user/vilt"]
    args = arguments(tmp_path, model_name_or_path="user/vilt")
    renamed = dataset.map(lambda r: {"answer": f"new {r['answer']}"})
    loaded, its_processor = build_model(args, renamed)
    assert torch.equal(loaded.vilt.pooler.dense.weight, model.vilt.pooler.dense.weight)
    assert all(answer.startswith("new ") for answer in loaded.config.label2id)
    assert its_processor.image_processor.size == processor.image_processor.size
    assert its_processor.tokenizer("Is this CT?")["input_ids"] == processor.tokenizer("Is this CT?")["input_ids"]


def test_evaluation_keeps_the_vocabulary_of_the_folder(built, saved, dataset, tmp_path):
    shrunk = type(dataset)({"train": dataset["train"].select(range(3)), "validation": dataset["validation"]})
    args = arguments(tmp_path, model_name_or_path=str(saved), do_train=False)
    assert build_model(args, shrunk)[0].config.label2id == built[0].config.label2id


def test_training_on_other_answers_starts_a_new_head_even_of_the_same_size(built, saved, dataset, tmp_path):
    model, _ = built
    args = arguments(tmp_path, model_name_or_path=str(saved))
    kept, _ = build_model(args, dataset)
    assert torch.equal(kept.classifier[-1].weight, model.classifier[-1].weight)
    renamed = dataset.map(lambda r: {"answer": f"new {r['answer']}"})
    fresh, _ = build_model(args, renamed)
    assert fresh.config.num_labels == model.config.num_labels
    assert not torch.allclose(fresh.classifier[-1].weight, model.classifier[-1].weight)
    assert torch.equal(fresh.vilt.pooler.dense.weight, model.vilt.pooler.dense.weight)


def test_checkpoint_of_another_kind_is_named(dataset, tmp_path):
    transformers.BertConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="a model of type 'bert', not ViLT; choose dandelin/vilt-b32-mlm"):
        build_model(arguments(tmp_path, model_name_or_path=str(tmp_path / "bert")), dataset)


def test_checkpoint_that_is_not_there_is_named(dataset, tmp_path, hub):
    with pytest.raises(UserError, match=r"user/none: the Hub has no such model, or it is private"):
        build_model(arguments(tmp_path, model_name_or_path="user/none"), dataset)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", b"\x10torn"), ("config.json", b"{"), ("config.json", b"{}")],
    ids=["weights", "config", "no-model-type"],
)
def test_damaged_checkpoint_is_one_sentence(saved, dataset, tmp_path, file, content):
    (saved / file).write_bytes(content)
    with pytest.raises(UserError, match=r"can't be loaded \(|its config.json is damaged"):
        build_model(arguments(tmp_path, model_name_or_path=str(saved)), dataset)


def test_untrained_model_can_not_be_evaluated(tmp_path):
    with pytest.raises(UserError, match="an untrained model has nothing to evaluate"):
        check_base(arguments(tmp_path, do_train=False))


def test_models_name_the_layers_that_fsdp_shards(saved, starter):
    """Accelerate ends a run whose model has no part of a name."""
    for model, _ in (load_checkpoint(open_model(str(saved))), starter):
        assert model._no_split_modules == {"ViltLayer"}
        assert "ViltLayer" in {type(part).__name__ for part in model.modules()}
