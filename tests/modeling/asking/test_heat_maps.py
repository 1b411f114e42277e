"""Heat maps of every kind of model, and how they lie over the image."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.asking.heat_maps import names_on_image, outline, overlay
from modeling.parts.evidence import Detection
from processing.errors import UserError
from tests.modeling.asking.conftest import QUESTION

pytestmark = pytest.mark.xdist_group("heat maps")  # one worker makes the models

GRIDS = {"vilt": (4, 6), "starter": (7, 7), "opt": (4, 4), "llama": (4, 4), "t5": (4, 4)}


def hook_counts(model: torch.nn.Module) -> list[int]:
    """The number of hooks on each module."""
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


@pytest.mark.parametrize("kind", GRIDS)
def test_map_is_a_distribution_over_the_grid_and_is_repeatable(untrained, image, kind):
    predictor = untrained(kind)
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
def test_map_leaves_the_model_as_it_was(untrained, image, kind):
    predictor = untrained(kind)
    model = predictor.model
    before = predictor.answer(image, QUESTION)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    hooks = hook_counts(model)
    config = copy.deepcopy(model.config.to_dict())
    predictor._kept.clear()
    heat = predictor.heat_map(image, QUESTION)
    with torch.inference_mode():
        assert np.array_equal(predictor.heat_map(image, QUESTION), heat)
    predictor._kept.clear()
    assert predictor.answer(image, QUESTION) == before
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert hook_counts(model) == hooks
    assert model.config.to_dict() == config
    assert not predictor._lock.locked()


@pytest.mark.parametrize("kind", ["vilt", "starter", "opt"])
def test_map_does_not_depend_on_which_parameters_are_frozen(untrained, image, kind):
    predictor = untrained(kind)
    heat = predictor.heat_map(image, QUESTION, "Yes")
    flags = [(parameter, parameter.requires_grad) for parameter in predictor.model.parameters()]
    predictor.model.requires_grad_(False)
    try:
        assert np.array_equal(predictor.heat_map(image, QUESTION, "Yes"), heat)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@pytest.mark.parametrize("kind", ["starter", "opt"])
def test_model_is_restored_where_a_map_fails(untrained, image, kind):
    predictor = untrained(kind)
    before = predictor.answer(image, QUESTION)
    hooks = hook_counts(predictor.model)
    last = predictor.model.classifier if kind == "starter" else predictor.model.language_projection
    handle = last.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predictor.heat_map(image, QUESTION, "Yes")
    handle.remove()
    assert hook_counts(predictor.model) == hooks
    assert predictor.answer(image, QUESTION) == before


def test_map_reads_what_is_kept_of_an_image_and_keeps_what_is_new(untrained, image, tmp_path):
    predictor = untrained("starter")
    image.save(tmp_path / "x.png")
    predictor._kept.clear()
    forwards = []
    handle = predictor.model.vision.register_forward_hook(lambda *_: forwards.append(1))
    with open(tmp_path / "x.png", "rb") as file:  # can be read only once
        heat = predictor.heat_map(file, QUESTION)
    predictor.answer(tmp_path / "x.png", QUESTION)
    assert np.array_equal(predictor.heat_map(tmp_path / "x.png", QUESTION), heat)
    handle.remove()
    assert forwards == [1]


def test_rows_of_a_map_are_rows_of_the_image(untrained):
    """The tokens of a bright corner differ from all others, whatever an untrained model makes of them."""
    predictor = untrained("vilt")
    maps = []
    for corner in ((0, 0), (64, 0)):
        picture = Image.new("RGB", (96, 64))
        picture.paste((255, 255, 255), (*corner, corner[0] + 32, 32))
        maps.append(predictor.heat_map(picture, QUESTION, "Yes"))
    change = np.abs(maps[1] - maps[0])
    assert change[:2, [0, 1, 4, 5]].min() > 2 * change[2:].mean()


@pytest.mark.parametrize("kind", ["vilt", "starter"])
def test_answer_that_a_vilt_does_not_know_is_refused(untrained, image, kind):
    with pytest.raises(UserError, match=r"answer 'A unicorn': not among the \d+ that the model knows; ask about"):
        untrained(kind).heat_map(image, QUESTION, "A unicorn")
    assert not untrained(kind)._lock.locked()


def test_answer_may_be_spelt_as_training_allows(untrained, image):
    predictor = untrained("vilt")
    maps = [predictor.heat_map(image, QUESTION, answer) for answer in ("Yes", " yes. ")]
    assert np.array_equal(*maps)


def test_empty_question_is_refused(untrained, image):
    with pytest.raises(UserError, match="The question is empty"):
        untrained("vilt").heat_map(image, " ")


def test_model_that_samples_patches_has_no_map(untrained, image):
    predictor = untrained("vilt")
    predictor.model.config.max_image_length = 6
    try:
        with pytest.raises(UserError, match="so it has no map; set max_image_length of its config to -1"):
            predictor.heat_map(image, QUESTION, "Yes")
    finally:
        predictor.model.config.max_image_length = -1


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
def test_impossible_opacity_is_refused(opacity):
    with pytest.raises(UserError, match="must be from 0 to 1"):
        overlay(Image.new("RGB", (8, 8)), np.ones((2, 2), np.float32), opacity)


def test_overlay_between_given_limits_leaves_an_unsure_map_without_colour():
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    unsure = np.array([[0.0, 0.0012], [0.0006, 0.0]])
    assert overlay(image, unsure, 1.0, limits=(0, 1)).tobytes() == image.tobytes()
    sure = np.asarray(overlay(image, np.full((2, 2), 1.0), 1.0, limits=(0, 1)))
    assert (sure == (252, 255, 164)).all()  # inferno's end


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_outlines_are_bright_between_dark_lines_whatever_the_image(grey):
    boxes = [Detection("Left Lung", 0.934, (0.5, 0.25, 0.25, 0.5)), Detection("Heart", 0.6, (0.25, 0.5, 0.125, 0.25))]
    drawn = outline(Image.new("L", (96, 96), grey), boxes)
    assert (drawn.mode, drawn.size) == ("RGB", (720, 720))
    dark, yellow, blue, plain = (16, 24, 27), (255, 210, 63), (102, 204, 255), (grey, grey, grey)
    assert [drawn.getpixel((x, 400)) for x in (355, 360, 365, 371, 375)] == [plain, dark, yellow, dark, plain]
    assert [drawn.getpixel((x, 400)) for x in (525, 528, 534, 539, 545)] == [plain, dark, yellow, dark, plain]
    assert [drawn.getpixel((450, y)) for y in (525, 528, 534, 539, 545)] == [plain, dark, yellow, dark, plain]
    assert drawn.getpixel((185, 450)) == blue
    above = np.asarray(drawn)[140:180, 360:540].reshape(-1, 3)  # the name
    assert (above == yellow).all(1).mean() > 0.1
    assert (above == dark).all(1).mean() > 0.3


def test_names_do_not_cover_each_other():
    place = (0.4, 0.4, 0.2, 0.2)
    one, both = (
        np.asarray(outline(Image.new("L", (720, 720)), [Detection(label, 0.9, place) for label in labels]))
        for labels in (["Left Lung"], ["Left Lung", "Right Lung"])
    )
    yellow, blue = (255, 210, 63), (102, 204, 255)
    assert (one == yellow).all(2).sum() == (both == yellow).all(2).sum()
    assert (both == blue).all(2).sum() > 300


def test_a_number_stands_for_a_label_that_the_font_cannot_write():
    place = (0.4, 0.4, 0.2, 0.2)
    boxes = [Detection(label, 0.9, place) for label in ("Легкое", "肝脏", "Rate\n", "脾", "肝脏")]
    assert names_on_image(boxes) == {"Легкое": "Легкое", "肝脏": "#2", "Rate\n": "Rate\n", "脾": "#4"}
    blank = Image.new("L", (720, 720))
    drawn, numbered = (outline(blank, [Detection(label, 0.9, place)]).tobytes() for label in ("肝脏", "#1"))
    assert drawn == numbered


@pytest.mark.parametrize("size", [(1, 1), (2100, 100), (100, 2100), (5000, 3000)])
def test_outlines_fit_images_of_every_shape(size):
    whole = Detection("A name that is far too long for an image of this width " * 3, 1.0, (0.0, 0.0, 1.0, 1.0))
    drawn = outline(Image.new("L", size), [whole])
    assert 720 <= max(drawn.size) <= 2048
    assert drawn.width / drawn.height == pytest.approx(size[0] / size[1], rel=0.02)
    bottom = drawn.getpixel((drawn.width // 2, drawn.height - 1))
    assert bottom == (16, 24, 27)
