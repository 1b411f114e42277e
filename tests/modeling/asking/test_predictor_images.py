"""Images that a predictor is asked about: their forms, what it keeps of them, and threads that ask at once."""

import gc
import io
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom.data
import pytest
from PIL import Image

from modeling.asking import predictor as module

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models


def test_every_form_of_an_image_gets_the_same_answer(vilt, images):
    path, question = images[0], "Which organ is shown?"
    expected = vilt.answer(path, question)
    vilt._kept.clear()
    content = Path(path).read_bytes()
    with open(path, "rb") as file:
        for form in (Path(path), content, file, Image.open(path), io.BytesIO(content)):
            assert vilt.answer(form, question) == expected
            vilt._kept.clear()
    with open(path, "rb") as file:  # can be read only once
        assert [answer.answer for answer in vilt.answer_batch(file, [question] * 2)] == [expected.answer] * 2


def test_dicom_and_grey_images_are_answered(starter):
    assert starter.answer(pydicom.data.get_testdata_file("CT_small.dcm"), "Is this a CT scan?").answer
    assert starter.answer(Image.new("L", (30, 50), 128), "Is this a CT scan?").answer


def test_pil_images_of_the_same_bytes_and_another_shape_are_different_images(starter):
    wide = Image.effect_noise((64, 64), 90)
    tall = Image.frombytes("L", (32, 128), wide.tobytes())
    first = starter.answer(wide, "Where is the lesion?")
    assert starter.answer(tall, "Where is the lesion?").confidence != first.confidence


@pytest.fixture(params=["starter", "opt"])
def recorded(request, trained_predictor):
    """A predictor and the sizes of the batches that its vision network gets."""
    predictor = trained_predictor(request.param)
    network = predictor.backend.vision if request.param == "opt" else predictor.model.vision
    batches: list[int] = []
    hook = network.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    yield predictor, batches
    hook.remove()


def test_an_image_is_encoded_once_for_all_its_questions(recorded, images):
    predictor, batches = recorded
    questions = ["Is this a CT scan?", "Which organ is shown?", "Where is the lesion?"]
    first = predictor.answer_batch(images[0], questions)
    assert batches == [1]
    assert predictor.answer(Path(images[0]).read_bytes(), questions[1]).answer == first[1].answer
    assert batches == [1]
    predictor.answer_batch([images[0], images[1], images[2], images[1]], [*questions, questions[0]])
    assert batches == [1, 2]


def test_only_a_few_images_are_kept(recorded, images):
    predictor, batches = recorded
    for image in images[: module.KEPT_IMAGES + 1]:
        predictor.answer(images[0], "Is this a CT scan?")  # used again and again
        predictor.answer(image, "Is this a CT scan?")
    assert len(predictor._kept) == module.KEPT_IMAGES
    batches.clear()
    predictor.answer(images[0], "Is this a CT scan?")
    assert batches == []
    predictor.answer(images[1], "Is this a CT scan?")  # the least recently used
    assert batches == [1]


def test_what_is_computed_of_an_image_goes_some_minutes_after_its_last_question(recorded, images, monkeypatch):
    predictor, batches = recorded
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    question = "Is this a CT scan?"
    for second, image in ((0, images[0]), (100, images[1]), (500, images[0])):
        now[0] = second
        predictor.answer(image, question)
    for second, kept in ((640, 2), (641, 1), (1040, 1), (1041, 0)):
        now[0] = second
        predictor.forget_images()
        assert len(predictor._kept) == kept
    batches.clear()
    predictor.answer(images[0], question)
    assert batches == [1]
    assert module.KEPT_SECONDS + module.FORGET_SECONDS < 600  # the apps promise ten minutes


def test_a_thread_forgets_without_another_question_and_holds_no_model(vilt, images, monkeypatch):
    monkeypatch.setattr(module, "KEPT_SECONDS", 0)
    monkeypatch.setattr(module, "FORGET_SECONDS", 0.01)
    predictor = module.Predictor(vilt.backend)
    for _ in range(2):
        predictor.answer(images[0], "Is this a CT scan?")
        end = time.monotonic() + 60
        while predictor._kept or predictor._forgetter:
            assert time.monotonic() < end
            time.sleep(0.01)
    monkeypatch.setattr(module, "FORGET_SECONDS", 3600)
    predictor.answer(images[0], "Is this a CT scan?")
    there = weakref.ref(predictor)
    del predictor
    gc.collect()
    assert there() is None


@pytest.mark.parametrize("name", ["vilt", "starter", "llama", "smolvlm"])
def test_threads_never_mix_up_images(trained_predictor, images, monkeypatch, name):
    monkeypatch.setattr(module, "KEPT_IMAGES", 2)  # images come and go all the time
    predictor = trained_predictor(name)
    questions = ["Is this a CT scan?", "Which organ is shown in this image, if any?", "Is this a CT scan? " * 30]
    asked = [(image, question) for question in questions for image in images[:4]]
    expected = dict(zip(asked, (predictor.answer(*pair, top_k=2) for pair in asked), strict=True))
    assert len({answer.confidence for answer in expected.values()}) > 6
    inside, counts = [], []

    def enter(*_):
        inside.append(1)
        counts.append(len(inside))
        time.sleep(1e-3)

    def leave(*_):
        inside.pop()

    embeddings = predictor.model.get_input_embeddings()
    hooks = [embeddings.register_forward_pre_hook(enter), embeddings.register_forward_hook(leave)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pair: predictor.answer(*pair, top_k=2), asked * 3))
    for hook in hooks:
        hook.remove()
    assert set(counts) == {1}  # the model works for one thread at a time
    for pair, answer in zip(asked * 3, answers, strict=True):
        right = expected[pair]
        assert (answer.answer, answer.question_cut) == (right.answer, right.question_cut)
        assert answer.confidence == pytest.approx(right.confidence, rel=1e-4)
