"""modeling.vlm.starter: a LLaVA assembled from real package parts, and its adapter over a rebuilt base."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling.blip2.starter import Blip2StarterForQuestionAnswering, blip2_starter_checkpoint
from modeling.parts.model_files import ModelFiles
from modeling.predictor import Predictor
from modeling.vlm.base import load_base
from modeling.vlm.starter import vlm_starter_checkpoint, vlm_starter_folder
from modeling.writing.family import read_answers
from processing.errors import UserError
from tests.modeling.vlm.tiny_runs import trained
from tests.support.rebuilt import check_rebuilt

pytestmark = pytest.mark.xdist_group("blip2_starter")  # one worker loads it


@pytest.fixture(scope="module")
def base():
    """The model and its processor, in fp32."""
    return load_base(ModelFiles("starter", vlm_starter_checkpoint()), torch.float32)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """The folder of a short training of projector and adapter, and its trainer."""
    folder = tmp_path_factory.mktemp("trained")
    options = {"lora_targets": ["attention", "dense"], "modules_to_save": ["projector"], "max_steps": 10}
    trainer = trained("starter", folder, dataset, **options, learning_rate=1e-3, merge_adapter=True, prompt="{}")
    trainer.save_model()
    return folder, trainer


def test_same_parts_give_the_same_base_and_no_random_numbers_of_the_run_are_used(tmp_path, monkeypatch):
    check_rebuilt(vlm_starter_checkpoint, tmp_path, monkeypatch)


def test_language_model_is_smollm2(base):
    model, processor = base
    inputs = processor.tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    assert processor.tokenizer.decode(logits.argmax()) == " Paris"


def test_it_sees_what_the_blip2_starter_sees(base):
    model, _ = base
    blip2 = Blip2StarterForQuestionAnswering.from_pretrained(blip2_starter_checkpoint(), dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tokens = model.model.vision_tower(pixels).last_hidden_state
        wanted = blip2.vision_model(blip2.vision_model.vision(pixels))
        features = model.model.get_image_features(pixels, return_dict=True).pooler_output
    torch.testing.assert_close(tokens, wanted)
    words = model.get_input_embeddings().weight.std().item()
    assert torch.cat(list(features)).std().item() == pytest.approx(words, rel=0.5)  # as wide as words


def test_adapter_and_merged_model_answer_as_the_trainer(run, dataset):
    folder, trainer = run
    rows = dataset["validation"].select(range(8))
    written = read_answers(trainer.predict(rows), trainer)
    wanted = [written[number][0] for number in rows["row"]]
    assert len(set(wanted)) > 1
    for path in (folder, folder / "merged"):
        predictor = Predictor.from_pretrained(path, dtype="float32")
        answers = predictor.answer_batch(list(rows["image"]), list(rows["question"]), top_k=1)
        assert [answer.answer for answer in answers] == wanted


def test_auto_classes_read_the_base_and_its_processor():
    folder = vlm_starter_checkpoint()
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it a CT?"}]}],
        add_generation_prompt=True,
    )
    assert text == "<|im_start|><image>Is it a CT?"
    assert model.config.model_type == "llava"


def test_an_adapter_over_another_assembly_is_refused(run, tmp_path):
    folder, _ = run
    for name in ("adapter_model.safetensors", "answering.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "starter"
    assert config["revision"] == vlm_starter_folder().name
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"revision": "vlm-000000000000"}))
    with pytest.raises(UserError, match="this adapter does not fit its base model .trained on vlm-000000000000"):
        Predictor.from_pretrained(tmp_path)
