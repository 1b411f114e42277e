"""Heat maps: the published formula, for every kind of model, and whether they point."""

import copy

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.vilt.modeling_vilt import ViltLayer, ViltSelfAttention

from metrics.grounding import grounding_figures, named_boxes, point
from modeling.asking.heat_maps import overlay
from modeling.asking.predictor import Predictor
from modeling.blip2 import family as blip2
from modeling.blip2.answering import Answering
from modeling.blip2.base import load_base
from modeling.blip2.predictor import Blip2Predictor
from modeling.parts.relevance import cross_relevance, normalized_heat
from modeling.training.arguments import Blip2TrainingArguments, ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from modeling.vilt.heat import vilt_heat
from modeling.vilt.predictor import ViltPredictor
from processing.collators import ViltCollator
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import open_image
from processing.phantom.files import write_phantoms
from tests.support.tiny_blip2 import QUERIES, tiny_blip2

pytestmark = pytest.mark.xdist_group("explain")  # one worker makes the models

QUESTION = "Is the left lung healthy?"
GRIDS = {"vilt": (4, 6), "starter": (7, 7), "opt": (4, 4), "llama": (4, 4), "t5": (4, 4)}


@pytest.fixture(scope="module")
def dataset(phantoms):
    return load_vqa_dataset(str(phantoms))


@pytest.fixture(scope="module")
def image(dataset):
    """Wider than high, so that rows and columns can't be mixed up."""
    return open_image(dataset["train"]["image"][0]).resize((96, 64))


@pytest.fixture(scope="module")
def predictors(dataset, tmp_path_factory):
    """A function from the kind of a model to its predictor; the models are untrained, with large weights."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Predictor] = {}

    def vilt(name: str) -> Predictor:
        args = ViltTrainingArguments(output_dir=str(folder), model_name_or_path=name, fp16=False)
        torch.manual_seed(0)
        model, processor = build_model(args, dataset)
        if name == "scratch:tiny":
            for parameter in [p for p in model.parameters() if p.ndim > 1]:
                torch.nn.init.normal_(parameter, std=0.3)
        return Predictor(ViltPredictor(model, processor, torch.device("cpu"), torch.float32))

    def of(kind: str) -> Predictor:
        if kind in made:
            return made[kind]
        if kind in ("vilt", "starter"):
            made[kind] = vilt("scratch:tiny" if kind == "vilt" else kind)
        else:
            base = load_base(str(tiny_blip2(kind, dataset, folder / kind)), torch.float32)
            candidates = ["Yes", "No", "Left Lung"] if kind == "llama" else None
            answering = Answering(max_new_tokens=5, candidates=candidates)
            made[kind] = Predictor(Blip2Predictor(*base, torch.device("cpu"), answering))
        return made[kind]

    return of


# The formula ---------------------------------------------------------------------------------------------------------


def test_map_of_a_vilt_is_the_published_formula_over_the_stock_class(predictors, image):
    predictor = predictors("vilt")
    heat = predictor.heat_map(image, QUESTION, "No")

    model, processor = predictor.model, predictor.processor
    stock = transformers.ViltForQuestionAnswering(model.config).eval()
    stock.load_state_dict(model.state_dict())
    stock.vilt.embeddings.__class__ = type(model.vilt.embeddings)  # keeps the patches in their order
    inputs = processor(image, QUESTION, return_tensors="pt")
    output = stock(**inputs, output_attentions=True)
    for attention in output.attentions:
        attention.retain_grad()
    output.logits[0, model.config.label2id["No"]].backward()
    tokens = output.attentions[0].shape[-1]
    relevance = np.eye(tokens)
    for attention in output.attentions:
        heads = (attention.grad * attention)[0].detach().numpy()
        relevance = relevance + np.maximum(heads, 0).mean(0) @ relevance
    words = inputs["input_ids"].shape[1]
    expected = relevance[0, words + 1 :].reshape(4, 6)
    assert expected.max() > 1.5 * expected.mean()
    np.testing.assert_allclose(heat, expected / expected.sum(), rtol=1e-3, atol=1e-6)


def test_map_of_the_starter_does_not_need_the_rows_that_its_last_layer_leaves_out(predictors, image):
    predictor = predictors("starter")
    heat = predictor.heat_map(image, QUESTION, "No")
    last = predictor.model.encoder.layer[-1]
    short = type(last), type(last.attention.attention)
    try:
        last.__class__, last.attention.attention.__class__ = ViltLayer, ViltSelfAttention
        np.testing.assert_allclose(predictor.heat_map(image, QUESTION, "No"), heat, rtol=1e-4, atol=1e-7)
    finally:
        last.__class__, last.attention.attention.__class__ = short


@pytest.mark.parametrize("kind", ["vilt", "starter"])
def test_maps_of_a_batch_are_those_of_each_question(predictors, image, tmp_path, kind):
    predictor = predictors(kind)
    rows = []
    for number, (size, question) in enumerate(
        [((96, 64), QUESTION), ((64, 96), "Is it?"), ((64, 64), "Where is/are the abnormality located in this image?")]
    ):
        image.resize(size).save(tmp_path / f"{number}.png")
        rows.append({"row": number, "image": str(tmp_path / f"{number}.png"), "question": question, "answer": "No"})
    config = predictor.model.config
    collator = ViltCollator(predictor.processor, {}, config.num_labels, 40, share_images=kind == "starter")
    batch = collator.prompts(rows)
    del batch["row"]
    maps = vilt_heat(predictor.model, batch, [config.label2id["No"]] * 3)
    for row, heat in zip(rows, maps, strict=True):
        alone = predictor.heat_map(row["image"], row["question"], "No")
        np.testing.assert_allclose(heat, alone, rtol=1e-3, atol=1e-6)


def test_maps_of_a_batch_of_a_blip2_are_those_of_each_question(runs, phantoms):
    """Of questions about two images, three of them about one."""
    folder = runs("opt")
    args = Blip2TrainingArguments(output_dir=str(folder), model_name_or_path=str(folder), do_train=False, fp16=False)
    dataset = load_vqa_dataset(str(phantoms))
    trainer = blip2.build_trainer(args, *blip2.build_model(args, dataset), dataset)
    by_image = dataset["validation"].sort("image")
    rows = [*by_image.select(range(3)), by_image[len(by_image) - 1]]
    maps = blip2.heat_maps(trainer, rows)
    assert len({row["image"] for row in rows}) == 2
    for row, heat in zip(rows, maps, strict=True):
        np.testing.assert_allclose(heat, blip2.heat_maps(trainer, [row])[0], rtol=1e-3, atol=1e-6)
    predictor = Predictor.from_pretrained(folder, dtype="float32")
    alone = predictor.heat_map(rows[0]["image"], rows[0]["question"], rows[0]["answer"])
    np.testing.assert_allclose(maps[0], alone, rtol=0.02, atol=1e-4)  # features are kept as halves


def published(layers):
    """Eqs. 6 to 10 in plain numpy, from A_bar of each layer to the queries and, where it has one, to the image."""
    queries = len(layers[0][0])
    own, image = np.eye(queries), np.zeros(layers[0][1].shape)
    for to_queries, *crossing in layers:
        own, image = own + to_queries @ own, image + to_queries @ image
        if crossing:
            normalized = np.eye(queries) + (own - np.eye(queries)) / (own - np.eye(queries)).sum(1, keepdims=True)
            image = image + normalized.T @ crossing[0] @ np.eye(len(image[0]))
    return image


def test_layers_without_and_with_cross_attention_alternate():
    rng = np.random.default_rng(0)
    first, second, third = rng.random((3, 2, 2))
    image = rng.random((2, 2, 3))
    layers = [[first, image[0]], [second], [third, image[1]]]
    relevance = cross_relevance([[torch.tensor(part) for part in layer] for layer in layers])
    np.testing.assert_allclose(relevance.numpy(), published(layers))


@pytest.mark.parametrize("kind", ["opt", "llama", "t5"])
def test_map_of_a_blip2_is_the_published_formula_over_the_stock_class(predictors, image, kind):
    predictor = predictors(kind)
    heat = predictor.heat_map(image, QUESTION, "Left Lung")

    folder = predictor.model.config._name_or_path
    stock = transformers.Blip2ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer, pixels = predictor.processor.tokenizer, predictor.processor.image_processor(image, return_tensors="pt")
    states = stock.vision_model(**pixels).last_hidden_state
    output = stock.qformer(
        query_embeds=stock.query_tokens, encoder_hidden_states=states.detach(), output_attentions=True
    )
    prompt = tokenizer(f"Question: {QUESTION} Answer:")["input_ids"]
    answer = tokenizer("Left Lung" if kind == "t5" else " Left Lung", add_special_tokens=False)["input_ids"]
    answer = torch.tensor([*answer, tokenizer.eos_token_id])
    text = torch.tensor(prompt if kind == "t5" else [*prompt, *answer[:-1]])
    embeddings = stock.get_input_embeddings()(text)
    inputs = torch.cat([stock.language_projection(output.last_hidden_state), embeddings[None]], dim=1)
    labels = {"labels": answer[None]} if kind == "t5" else {}
    logits = stock.language_model(inputs_embeds=inputs, **labels).logits[0, -len(answer) :]
    likelihood = logits.log_softmax(-1)[range(len(answer)), answer].sum()
    attention = output.attentions  # the stock class lists those of the cross-attention among them
    assert [part.shape[-1] for part in attention] == [QUERIES, 17, QUERIES]
    gradients = torch.autograd.grad(likelihood, attention)
    first, cross, second = (
        np.maximum((gradient * part)[0].detach().numpy(), 0).mean(0)
        for gradient, part in zip(gradients, attention, strict=True)
    )
    expected = published([[first, cross], [second]]).sum(0)[1:].reshape(4, 4)
    np.testing.assert_allclose(heat, expected / expected.sum(), rtol=0.02, atol=1e-4)  # features are kept as halves


# Every kind of model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRIDS)
def test_map_is_a_distribution_over_the_grid_and_is_repeatable(predictors, image, kind):
    predictor = predictors(kind)
    heat = predictor.heat_map(image, QUESTION)
    assert (heat.shape, heat.dtype) == (GRIDS[kind], np.float32)
    assert heat.min() >= 0
    assert heat.sum() == pytest.approx(1, abs=1e-5)
    assert heat.max() > 1.05 / heat.size  # else any uniform map would do
    own = predictor.answer(image, QUESTION).answer
    assert np.array_equal(predictor.heat_map(image, QUESTION, own), heat)
    other = next(answer for answer in ("Yes", "No") if answer != own)
    assert np.abs(predictor.heat_map(image, QUESTION, other) - heat).max() > 1e-3 / heat.size


@pytest.mark.parametrize("kind", GRIDS)
def test_map_leaves_the_model_as_it_was(predictors, image, kind):
    predictor = predictors(kind)
    model = predictor.model
    before = predictor.answer(image, QUESTION)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    config = copy.deepcopy(model.config.to_dict())
    predictor._kept.clear()
    heat = predictor.heat_map(image, QUESTION)
    with torch.inference_mode():
        assert np.array_equal(predictor.heat_map(image, QUESTION), heat)
    predictor._kept.clear()
    assert predictor.answer(image, QUESTION) == before
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert model.config.to_dict() == config
    assert not predictor._lock.locked()


@pytest.mark.parametrize("kind", ["vilt", "starter", "opt"])
def test_map_does_not_depend_on_which_parameters_are_frozen(predictors, image, kind):
    predictor = predictors(kind)
    heat = predictor.heat_map(image, QUESTION, "Yes")
    flags = [(parameter, parameter.requires_grad) for parameter in predictor.model.parameters()]
    predictor.model.requires_grad_(False)
    try:
        assert np.array_equal(predictor.heat_map(image, QUESTION, "Yes"), heat)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@pytest.mark.parametrize("kind", ["starter", "opt"])
def test_model_is_restored_where_a_map_fails(predictors, image, kind, monkeypatch):
    predictor = predictors(kind)
    before = predictor.answer(image, QUESTION)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in predictor.model.modules()]
    last = predictor.model.classifier if kind == "starter" else predictor.model.language_projection
    handle = last.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predictor.heat_map(image, QUESTION, "Yes")
    handle.remove()
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in predictor.model.modules()] == hooks
    assert predictor.answer(image, QUESTION) == before


def test_map_reads_what_is_kept_of_an_image_and_keeps_what_is_new(predictors, image, tmp_path):
    predictor = predictors("starter")
    image.save(tmp_path / "x.png")
    predictor._kept.clear()
    seen = []
    handle = predictor.model.vision.register_forward_hook(lambda *_: seen.append(1))
    with open(tmp_path / "x.png", "rb") as file:  # can be read only once
        heat = predictor.heat_map(file, QUESTION)
    predictor.answer(tmp_path / "x.png", QUESTION)
    assert np.array_equal(predictor.heat_map(tmp_path / "x.png", QUESTION), heat)
    handle.remove()
    assert seen == [1]


def test_rows_of_a_map_are_rows_of_the_image(predictors):
    """The tokens of a bright corner differ from all others, whatever an untrained model makes of them."""
    predictor = predictors("vilt")
    maps = []
    for corner in ((0, 0), (64, 0)):
        picture = Image.new("RGB", (96, 64))
        picture.paste((255, 255, 255), (*corner, corner[0] + 32, 32))
        maps.append(predictor.heat_map(picture, QUESTION, "Yes"))
    change = np.abs(maps[1] - maps[0])
    assert change[:2, [0, 1, 4, 5]].min() > 2 * change[2:].mean()


# Does it point? ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pointing(tmp_path_factory):
    """What a trained starter answers rightly to questions whose answer names something that the image has a box of:
    the row, the boxes, and the map."""
    folder = write_phantoms(tmp_path_factory.mktemp("pointing") / "set", num_images=300)
    dataset = load_vqa_dataset(str(folder)).filter(lambda row: named_boxes("", row["answer"], row["boxes"]))
    args = ViltTrainingArguments(  # as recipes/vilt_starter_phantom.yaml, in smaller batches
        output_dir=str(folder.parent / "run"),
        **{"model_name_or_path": "starter", "vision_learning_rate": 0, "learning_rate": 5e-4, "weight_decay": 0.05},
        **{"num_train_epochs": 12, "per_device_train_batch_size": 16, "questions_per_image": 4, "warmup_steps": 0.1},
        **{"lr_scheduler_type": "cosine", "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True},
    )
    torch.manual_seed(0)
    model, processor = build_model(args, dataset)
    del model.encoder.layer[1:]  # one layer learns in a minute where to look, three take ten
    build_trainer(args, model, processor, dataset).train()
    predictor = Predictor(ViltPredictor(model, processor, torch.device("cpu"), torch.float32))
    found = []
    for row in [*dataset["validation"], *dataset["test"]]:
        if predictor.answer(row["image"], row["question"], top_k=1).answer == row["answer"]:
            boxes = named_boxes("", row["answer"], row["boxes"])
            found.append((row, boxes, predictor.heat_map(row["image"], row["question"])))
    return found


def figures_of(found):
    rows = [
        {
            **{"image_id": row["image_id"], "correct": True, "boxes": boxes},
            "pointing": point(heat, boxes, open_image(row["image"]).size),
        }
        for row, boxes, heat in found
    ]
    return grounding_figures(rows)[0]


def beside_the_middle(found):
    return [one for one in found if not figures_of([one])["center"]]


def test_maps_point_at_what_the_answer_names(pointing):
    """Far more often than chance; also where always pointing at the middle of the image would never hit; and more
    often than the maps of the same images' other answers, which a fixed habit would equal."""
    others = [
        (row, boxes, heat)
        for row, boxes, _ in pointing
        for other, _, heat in pointing
        if row["image"] == other["image"] and row["answer"] != other["answer"]
    ]
    everything, beside, habit = (figures_of(part) for part in (pointing, beside_the_middle(pointing), others))
    print(everything, beside, habit, sep="\n")
    assert everything["questions"] > 100
    assert beside["questions"] > 25
    assert everything["hit"][1] > 1.5 * everything["chance"]
    assert everything["mass"][1] > 1.5 * everything["area"]
    assert beside["hit"][1] > 1.5 * beside["chance"]
    assert everything["hit"][0] > habit["hit"][0] + 6


def test_model_that_looks_at_the_wrong_place_is_found_out(pointing):
    """The same answers, all right, with maps that are mirrored at the middle of the image."""
    mirrored = [(row, boxes, heat[:, ::-1]) for row, boxes, heat in pointing]
    right, wrong = figures_of(pointing), figures_of(mirrored)
    beside, wrong_beside = figures_of(beside_the_middle(pointing)), figures_of(beside_the_middle(mirrored))
    print(wrong, wrong_beside, sep="\n")
    assert wrong["hit"][2] < right["hit"][0]
    assert wrong["mass"][2] < right["mass"][0]
    assert wrong_beside["hit"][0] < beside["hit"][0] / 2


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vilt", "starter"])
def test_answer_that_a_vilt_does_not_know_is_told(predictors, image, kind):
    with pytest.raises(UserError, match=r"answer 'A unicorn': not among the \d+ that the model knows; ask about"):
        predictors(kind).heat_map(image, QUESTION, "A unicorn")
    assert not predictors(kind)._lock.locked()


def test_answers_are_told_apart_as_in_training(predictors, image):
    predictor = predictors("vilt")
    maps = [predictor.heat_map(image, QUESTION, answer) for answer in ("Yes", " yes. ")]
    assert np.array_equal(*maps)


def test_empty_question_is_refused(predictors, image):
    with pytest.raises(UserError, match="The question is empty"):
        predictors("vilt").heat_map(image, " ")


def test_model_that_samples_patches_has_no_map(predictors, image):
    predictor = predictors("vilt")
    predictor.model.config.max_image_length = 6
    try:
        with pytest.raises(UserError, match="so it has no map; set max_image_length of its config to -1"):
            predictor.heat_map(image, QUESTION, "Yes")
    finally:
        predictor.model.config.max_image_length = -1


# The picture ---------------------------------------------------------------------------------------------------------


def test_no_relevance_is_a_uniform_map():
    assert np.array_equal(normalized_heat(torch.zeros(2, 4)), np.full((2, 4), 0.125, np.float32))
    assert np.array_equal(normalized_heat(torch.full((2, 4), torch.nan)), np.full((2, 4), 0.125, np.float32))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_overlay_colours_hot_places_and_leaves_cold_ones(mode):
    image = Image.effect_noise((160, 80), 60).convert(mode)
    heat = np.zeros((4, 8), np.float32)
    heat[0, 7] = 1
    plain = np.asarray(image.convert("RGB"), dtype=float)
    clear, half, full = (overlay(image, heat, opacity) for opacity in (0, 0.5, 1))
    assert (half.mode, half.size) == ("RGB", image.size)
    assert np.array_equal(np.asarray(clear), plain)
    change = np.abs(np.asarray(half, dtype=float) - plain).sum(2)
    assert np.array_equal(change[40:, :100], np.zeros((40, 100)))
    assert change[:10, 150:].mean() > 30
    assert np.asarray(full)[5, 155].tolist() == [252, 255, 164]  # inferno's end


def test_overlay_of_a_uniform_map_is_the_image():
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    assert overlay(image, np.full((3, 3), 1 / 9, np.float32), 0.7).tobytes() == image.tobytes()


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_impossible_opacity_is_told(opacity):
    with pytest.raises(UserError, match="must be from 0 to 1"):
        overlay(Image.new("RGB", (8, 8)), np.ones((2, 2), np.float32), opacity)
