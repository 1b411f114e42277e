"""Images that a predictor is asked about: their forms, what it keeps of them, and threads that ask at once."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom.data
import pytest
from PIL import Image

from modeling.asking import predictor as module
from modeling.asking.predictor import Predictor

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models


def test_every_form_of_an_image_gets_the_same_answer(vilt, images):
    path, question = images[0], "Which organ is shown?"
    expected = vilt.answer(path, question)
    vilt._kept.clear()
    with open(path, "rb") as file:
        forms = [Path(path), Path(path).read_bytes(), file, Image.open(path), io.BytesIO(Path(path).read_bytes())]
        for form in forms:
            assert vilt.answer(form, question) == expected
            vilt._kept.clear()
    with open(path, "rb") as file:  # can be read only once
        assert [answer.answer for answer in vilt.answer_batch(file, [question] * 2)] == [expected.answer] * 2


def test_dicom_and_grey_images_are_answered(starter):
    assert starter.answer(pydicom.data.get_testdata_file("CT_small.dcm"), "Is this a CT scan?").answer
    assert starter.answer(Image.new("L", (30, 50), 128), "Is this a CT scan?").answer


def test_pil_images_of_the_same_bytes_and_another_shape_are_told_apart(starter):
    wide = Image.effect_noise((64, 64), 90)
    tall = Image.frombytes("L", (32, 128), wide.tobytes())
    first = starter.answer(wide, "Where is the lesion?")
    assert starter.answer(tall, "Where is the lesion?").confidence != first.confidence


@pytest.fixture(params=["starter", "opt"])
def watched(request, runs):
    """A predictor and the sizes of the batches that its vision network sees."""
    predictor = Predictor.from_pretrained(runs(request.param), dtype="float32")
    network = predictor.vision if request.param == "opt" else predictor.model.vision
    seen = []
    network.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    return predictor, seen


def test_an_image_is_seen_once_for_all_its_questions(watched, images):
    predictor, seen = watched
    questions = ["Is this a CT scan?", "Which organ is shown?", "Where is the lesion?"]
    first = predictor.answer_batch(images[0], questions)
    assert seen == [1]
    assert predictor.answer(Path(images[0]).read_bytes(), questions[1]).answer == first[1].answer
    assert seen == [1]
    predictor.answer_batch([images[0], images[1], images[2], images[1]], [*questions, questions[0]])
    assert seen == [1, 2]


def test_only_a_few_images_are_kept(watched, images):
    predictor, seen = watched
    for image in images[: module.KEPT_IMAGES + 1]:
        predictor.answer(images[0], "Is this a CT scan?")  # used again and again
        predictor.answer(image, "Is this a CT scan?")
    assert len(predictor._kept) == module.KEPT_IMAGES
    seen.clear()
    predictor.answer(images[0], "Is this a CT scan?")
    assert seen == []
    predictor.answer(images[1], "Is this a CT scan?")  # the least recently used
    assert seen == [1]


@pytest.mark.parametrize("name", ["vilt", "starter", "llama"])
def test_threads_never_mix_up_images(runs, images, monkeypatch, name):
    monkeypatch.setattr(module, "KEPT_IMAGES", 2)  # images come and go all the time
    predictor = Predictor.from_pretrained(runs(name), dtype="float32")
    questions = ["Is this a CT scan?", "Which organ is shown in this image, if any?", "Is this a CT scan? " * 30]
    asked = [(image, question) for question in questions for image in images[:4]]
    expected = dict(zip(asked, (predictor.answer(*pair, top_k=2) for pair in asked), strict=True))
    assert len({answer.confidence for answer in expected.values()}) > 6
    inside, together = [], []

    def enter(*_):
        inside.append(1)
        together.append(len(inside))
        time.sleep(1e-3)

    def leave(*_):
        inside.pop()

    embeddings = predictor.model.get_input_embeddings()
    embeddings.register_forward_pre_hook(enter)
    embeddings.register_forward_hook(leave)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pair: predictor.answer(*pair, top_k=2), asked * 3))
    assert set(together) == {1}  # the model works for one thread at a time
    for pair, answer in zip(asked * 3, answers, strict=True):
        right = expected[pair]
        assert (answer.answer, answer.question_cut) == (right.answer, right.question_cut)
        assert answer.confidence == pytest.approx(right.confidence, rel=1e-4)
