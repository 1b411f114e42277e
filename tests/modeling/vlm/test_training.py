"""modeling.vlm.trainer: how an adapter on an image-text-to-text model trains, resumes, is evaluated and asked."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText

import train
from modeling.parts.model_files import open_model
from modeling.predictor import Predictor
from modeling.vlm import heat
from modeling.vlm.base import load_base, load_processor
from modeling.vlm.images import VisionPart
from processing.errors import UserError
from processing.images import open_image
from tests.modeling.vlm.tiny_runs import trained, untrained
from tests.support.app_server import ROOT
from tests.support.files import contents
from tests.support.hub.cards import check_card, read_card
from tests.support.short_runs import weights
from tests.support.tiny_vlms import MAKERS, OTHERS, save_tiny_vlm, tiny_vlm

FLAGS = ["--model_type", "vlm", "--disable_tqdm", "True", "--eval_strategy", "no", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder with a tiny model of each architecture, as the Hub's are laid out."""
    folder = tmp_path_factory.mktemp("vlms")
    return {name: save_tiny_vlm(name, folder / name) for name in [*MAKERS, *OTHERS]}


def stock_answer(model, processor, prompt, image):
    """What the stock class of transformers generates."""
    inputs = processor(images=[open_image(image)], text=[prompt], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", [*MAKERS, *OTHERS])
def test_a_trained_model_answers_alike_wherever_it_is_loaded(bases, phantoms, dataset, tmp_path, name):
    out = tmp_path / "out"
    flags = ["--dataset", str(phantoms), "--max_steps", "12", "--per_device_train_batch_size", "8", "--fp16", "False"]
    flags += ["--questions_per_image", "4", "--learning_rate", "0.01", "--merge_adapter", "True", "--seed", "1"]
    flags += ["--model_name_or_path", str(bases[name]), "--output_dir", str(out), "--max_new_tokens", "12"]
    train.main([*FLAGS, *flags])
    written = [json.loads(line) for line in (out / "predictions_validation.jsonl").read_text().splitlines()]
    rows = list(dataset["validation"].select(range(6)))
    found = [row["prediction"] for row in written]
    assert [row["question"] for row in written[: len(rows)]] == [row["question"] for row in rows]
    assert any(found)
    wanted = found[: len(rows)]
    images, questions = [row["image"] for row in rows], [row["question"] for row in rows]
    for folder in (out, out / "merged"):
        answers = Predictor.from_pretrained(folder, dtype="float32").answer_batch(images, questions, top_k=1)
        assert [answer.answer for answer in answers] == wanted
    processor = load_processor(open_model(str(bases[name])), name)
    adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(bases[name]), out)
    prompt = Predictor.from_pretrained(out).backend.chat.text
    assert [stock_answer(adapted, processor, prompt(row["question"]), row["image"]) for row in rows] == wanted
    predictor = Predictor.from_pretrained(out, dtype="float32")
    if name in OTHERS:
        with pytest.raises(UserError, match=f"^There are no heat maps for a model of type {name}.$"):
            predictor.heat_map(images[0], questions[0])
        return
    heat = predictor.heat_map(images[0], questions[0])
    assert heat.shape[0] > 1 < heat.shape[1]
    assert heat.sum() == pytest.approx(1, abs=1e-5)


def test_accumulated_batches_give_the_adapter_of_one_large_batch(bases, dataset, tmp_path):
    plain = {"max_steps": 2, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
    one = trained(bases["gemma3"], tmp_path / "a", dataset, **plain)
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    two = trained(bases["gemma3"], tmp_path / "b", dataset, **plain, **halves)
    assert any(weight.abs().max() > 1e-3 for name, weight in weights(one).items() if "lora_B" in name)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[name], weight, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["smolvlm", "qwen3_vl", "gemma3"])
def test_gradient_checkpointing_gives_the_same_adapter(bases, dataset, tmp_path, name):
    plain = trained(bases[name], tmp_path / "a", dataset, max_steps=3)
    checkpointed = trained(bases[name], tmp_path / "b", dataset, max_steps=3, gradient_checkpointing=True)
    assert any(weight.abs().max() > 0 for name, weight in weights(plain).items() if "lora_B" in name)
    for key, weight in weights(plain).items():
        torch.testing.assert_close(weights(checkpointed)[key], weight, atol=1e-5, rtol=1e-4)


def test_resumed_run_ends_with_the_same_adapter(bases, dataset, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1, "other_words": 0.5}
    whole = trained(bases["qwen2_5_vl"], tmp_path / "a", dataset, **saving)
    checkpoint = str(tmp_path / "a" / "checkpoint-3")
    resumed = trained(bases["qwen2_5_vl"], tmp_path / "b", dataset, **saving, resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 6
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight)


def test_kept_features_are_those_of_the_images(bases, dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [dataset["train"][i] for i in (0, 1, 2, 3, 20, 21)]
    batches = []
    for gigabytes in (1, 1, 0):
        trainer = untrained(bases["qwen3_vl"], tmp_path, dataset, feature_cache_gb=gigabytes)
        batches.append(trainer.data_collator(rows))
    assert "Image features: 0 computed, 28 read" in caplog.text
    assert trainer.model.get_base_model().model.visual is None
    for batch in batches[1:]:
        assert batch.keys() == batches[0].keys()
        for name, value in batches[0].items():
            torch.testing.assert_close(batch[name], value, atol=1e-5, rtol=1e-4)


def test_bf16_trains(bases, dataset, tmp_path):
    trainer = trained(bases["smolvlm"], tmp_path, dataset, bf16=True)
    assert trainer.model.get_base_model().dtype == torch.bfloat16
    assert all(weight.dtype == torch.float32 for weight in weights(trainer).values())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(0 < loss < 20 for loss in losses)


def test_a_bare_model_is_evaluated_and_asked_with_its_system_prompt(bases, phantoms, tmp_path):
    flags = ["--model_name_or_path", str(bases["llava"]), "--dataset", str(phantoms), "--output_dir", str(tmp_path)]
    train.main([*FLAGS, *flags, "--do_train", "False", "--system_prompt", "You read X-rays.", "--fp16", "False"])
    figures = json.loads((tmp_path / "all_results.json").read_text())
    assert {"eval_exact_match", "eval_f1"} <= figures.keys()
    assert (tmp_path / "report" / "report.md").is_file()
    asked = Predictor.from_pretrained(bases["llava"], dtype="float32").backend.chat.text("Is it a CT?")
    assert "\nIs it a CT? Answer with one word or a short phrase.<|im_end|>" in asked


def test_prompts_are_kept_beside_the_adapter(bases, dataset, tmp_path):
    said = {"prompt": "Look: {}", "system_prompt": "You read X-rays."}
    trained(bases["llava"], tmp_path, dataset, max_steps=1, merge_adapter=True, **said).save_model()
    wanted = "system\nYou read X-rays.<|im_end|>\n<|im_start|>user\n<image>\nLook: Is it a CT?<|im_end|>"
    for folder in (tmp_path, tmp_path / "merged"):
        evaluated = untrained(folder, tmp_path / "evaluated", dataset, do_train=False).data_collator.chat
        for chat in (Predictor.from_pretrained(folder).backend.chat, evaluated):
            assert wanted in chat.text("Is it a CT?")


def test_images_are_made_smaller_where_their_tokens_grow_with_them(bases, dataset, tmp_path):
    trained(bases["qwen3_vl"], tmp_path, dataset, max_steps=1, max_pixels=2048, merge_adapter=True).save_model()
    image = Image.new("RGB", (400, 200))
    for folder, tokens in ((bases["qwen3_vl"], 10), (tmp_path, 8), (tmp_path / "merged", 8)):
        read = Predictor.from_pretrained(folder, dtype="float32").backend.images.read(image)
        assert read.tensors["image_features"].shape[1] == tokens  # of 16 x 16 pixels


def test_a_base_that_penalizes_repetition_does_not_penalize_words_of_the_question(tmp_path):
    save_tiny_vlm("llava", tmp_path)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps(config | {"repetition_penalty": 1.5}))
    model, _ = load_base(open_model(str(tmp_path)), torch.float32)
    assert model.generation_config.repetition_penalty is None
    assert model.generation_config.eos_token_id == config["eos_token_id"]


def test_a_projector_trains_without_a_cache(bases, dataset, tmp_path):
    options = {"modules_to_save": ["projector"], "max_steps": 1}
    kept = weights(trained(bases["llava"], tmp_path / "kept", dataset, **options))
    for name, weight in weights(trained(bases["llava"], tmp_path, dataset, feature_cache_gb=0.0, **options)).items():
        torch.testing.assert_close(weight, kept[name], atol=1e-5, rtol=1e-3)


def test_what_sees_moves_without_what_the_model_keeps():
    model = tiny_vlm("llava_onevision").model
    vision = VisionPart(model).to(torch.float64)
    assert {p.dtype for p in vision.parameters()} == {torch.float64}
    assert model.model.image_newline.dtype == model.get_input_embeddings().weight.dtype == torch.float32


def test_a_heat_map_that_would_take_too_much_memory_is_refused(bases, phantoms, monkeypatch):
    monkeypatch.setattr(heat, "MOST_BYTES", 1e3)
    image = str(sorted((phantoms / "imgs").glob("*/source.jpg"))[0])
    with pytest.raises(UserError, match=r"^A heat map of an image of \d+ tokens takes 0 GB, more than the 0 GB"):
        Predictor.from_pretrained(bases["llava"], dtype="float32").heat_map(image, "Is it a CT?")


def test_special_tokens_of_a_question_are_left_out(bases, dataset, tmp_path):
    chat = untrained(bases["smolvlm"], tmp_path, dataset).data_collator.chat
    assert chat.text("Is<image> it<|im_end|> a CT?") == chat.text("Is it a CT?")


@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "gemma3", "internvl", "llava", "llava_onevision"])
def test_a_projector_trains_on_what_the_tower_saw(bases, dataset, tmp_path, name):
    rows = [dataset["train"][i] for i in (0, 1, 2, 3, 20, 21)]
    losses = []
    for whole in (None, ["projector"]):
        trainer = untrained(bases[name], tmp_path, dataset, modules_to_save=whole, questions_per_image=4)
        with torch.no_grad():
            losses.append(trainer.model.eval()(**trainer.data_collator(rows)).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    trainer = trained(bases[name], tmp_path, dataset, modules_to_save=["projector"], learning_rate=0.003)
    start = weights(untrained(bases[name], tmp_path / "other", dataset, modules_to_save=["projector"]))
    moved = {name for name, weight in weights(trainer).items() if not torch.equal(weight, start[name])}
    assert any(".modules_to_save." in name for name in moved)
    trainer.save_model()
    written = trainer.predict(dataset["validation"]).predictions[0]
    answers = Predictor.from_pretrained(tmp_path, dtype="float32").answer_batch(
        dataset["validation"]["image"][:4], dataset["validation"]["question"][:4], top_k=1
    )
    decode = trainer.processing_class.tokenizer.batch_decode
    texts = decode(
        [[t for t in row if t not in (-100, *trainer.ends)] for row in written[:4]], skip_special_tokens=True
    )
    assert [answer.answer for answer in answers] == [text.strip() for text in texts]


def test_a_projector_trains_and_is_asked_over_a_base_in_bf16(bases, phantoms, dataset, tmp_path):
    flags = ["--model_name_or_path", str(bases["llava"]), "--dataset", str(phantoms), "--max_steps", "6"]
    flags += ["--modules_to_save", "projector", "--bf16", "True", "--learning_rate", "0.01", "--max_new_tokens", "12"]
    train.main([*FLAGS, *flags, "--output_dir", str(tmp_path)])
    written = [json.loads(line) for line in (tmp_path / "predictions_validation.jsonl").read_text().splitlines()]
    rows = dataset["validation"].select(range(6))
    predictor = Predictor.from_pretrained(tmp_path, dtype="bfloat16")
    answers = predictor.answer_batch(rows["image"][:], rows["question"][:], top_k=1)
    assert [answer.answer for answer in answers] == [row["prediction"] for row in written[:6]]


def test_lora_on_the_projector_trains_it(bases, dataset, tmp_path):
    trainer = trained(bases["llava"], tmp_path, dataset, lora_targets=["attention", "projector"])
    own = {name: weight for name, weight in weights(trainer).items() if ".multi_modal_projector." in name}
    assert len(own) == 4  # two matrices for each of two layers
    assert all(weight.abs().max() > 0 for weight in own.values())


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("qwen3_vl", "modules_to_save", "--modules_to_save projector: a qwen3_vl has no projector of its own"),
        ("qwen3_vl", "lora_targets", "--lora_targets projector: a qwen3_vl has no projector of its own"),
        ("gemma3", "lora_targets", "--lora_targets projector: that of a gemma3 has no linear layers"),
    ],
)
def test_a_projector_that_is_not_there_is_refused(bases, dataset, tmp_path, name, option, message):
    with pytest.raises(UserError, match=f"^{message}"):
        untrained(bases[name], tmp_path, dataset, **{option: ["projector"]})


def test_a_projector_is_trained_whole_or_by_lora(bases, dataset, tmp_path):
    options = {"lora_targets": ["attention", "projector"], "modules_to_save": ["projector"]}
    with pytest.raises(
        UserError, match=r"^--lora_targets projector: --modules_to_save projector trains all of it; drop one.$"
    ):
        untrained(bases["llava"], tmp_path, dataset, **options)


ASK = """
import json, sys
from modeling.predictor import Predictor
image, *models = sys.argv[1:]
print(json.dumps([[answer.answer for answer in Predictor.from_pretrained(name, dtype="float32").answer_batch(
    image, ["Is this a CT scan?", "Which organ is shown?"], top_k=1)] for name in models]))
"""


def test_published_adapters_answer_alike_in_a_fresh_process_with_an_empty_cache(hub, token, bases, phantoms, tmp_path):
    image = str(sorted((phantoms / "imgs").glob("*/source.jpg"))[0])
    names, expected = [], []
    for name, base in bases.items():
        hub.repos[f"models/lab/{name}"] = {**contents(base), "README.md": b"---\nlicense: mit\n---\n"}
        flags = ["--model_name_or_path", f"lab/{name}", "--dataset", str(phantoms), "--max_steps", "3"]
        flags += [
            "--per_device_train_batch_size",
            "8",
            "--learning_rate",
            "0.01",
            "--output_dir",
            str(tmp_path / name),
            "--do_eval",
            "False",
        ]
        flags += ["--push_to_hub", "True", "--hub_model_id", f"user/{name}", "--fp16", "False"]
        train.main([*FLAGS, *flags])
        card = hub.repos[f"models/user/{name}"]["README.md"].decode()
        commit = hub.commit_of(f"models/lab/{name}")
        assert read_card(card)["base_model"] == f"lab/{name}"
        assert f"started from lab/{name} at commit {commit}." in card
        assert json.loads((tmp_path / name / "adapter_config.json").read_text())["revision"] == commit
        assert check_card(card, "model") == ([], [])
        assert "library_name: peft" in card
        names.append(f"user/{name}")
        model = Predictor.from_pretrained(tmp_path / name, dtype="float32")
        asked = ["Is this a CT scan?", "Which organ is shown?"]
        expected.append([answer.answer for answer in model.answer_batch(image, asked, top_k=1)])
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "MEDICAL_VQA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", ASK, image, *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
