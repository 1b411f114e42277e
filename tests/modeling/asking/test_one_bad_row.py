"""Whatever one image or question raises, it costs no other row its answer."""

import csv
import shutil

import pytest
from PIL import Image

from modeling.asking.command_line import main
from modeling.parts import family_predictor
from modeling.predictor import Answer, Predictor
from processing.errors import UserError

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models

QUESTION = "Is this a CT scan?"
ERRORS = [ValueError("height and width must be > 0"), MemoryError(), RecursionError("x" * 500), KeyError("a\nb")]


@pytest.fixture
def vilt(runs):
    return Predictor.from_pretrained(runs("vilt"), dtype="float32")


@pytest.fixture(scope="module")
def images(phantoms, tmp_path_factory):
    """Three good images, and "bad.png", which is 77 pixels wide."""
    folder = tmp_path_factory.mktemp("images")
    for number, source in enumerate(sorted(phantoms.glob("imgs/*/source.jpg"))[:3]):
        shutil.copy(source, folder / f"{number}.jpg")
    Image.new("RGB", (77, 50)).save(folder / "bad.png")
    return [str(folder / name) for name in ("0.jpg", "bad.png", "1.jpg", "2.jpg")]


def is_sentence(text: str) -> bool:
    return text.isprintable() and text.endswith(".") and len(text) < 400


def fail_for_bad(function, error):
    """The function, but it fails at the bad image."""

    def changed(image_processor, image):
        if image.width == 77:
            raise error
        return function(image_processor, image)

    return changed


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_image_that_can_not_be_prepared_costs_its_own_rows_alone(vilt, images, monkeypatch, error):

    expected = [vilt.answer(image, QUESTION, 1).answer for image in images]
    monkeypatch.setattr(family_predictor, "resize", fail_for_bad(family_predictor.resize, error))
    vilt._kept.clear()
    results = vilt.try_batch([*images, images[1]], [QUESTION] * 5, 1)
    for number in (1, 4):
        assert isinstance(results[number], UserError)
        assert is_sentence(str(results[number]))
        assert "bad.png': preparing it for the model failed (" + type(error).__name__ in str(results[number])
        assert results[number].__cause__ is error
    assert [results[number].answer for number in (0, 2, 3)] == [expected[number] for number in (0, 2, 3)]
    with pytest.raises(UserError, match="preparing it for the model failed"):
        vilt.answer_batch(images, [QUESTION] * 4)


@pytest.mark.parametrize("name", ["vilt", "starter"])
@pytest.mark.parametrize("step", ["fit_question", "encode_images", "rank_answers"])
def test_a_row_at_which_the_model_fails_costs_no_other_row_its_answer(runs, images, monkeypatch, caplog, name, step):
    predictor = Predictor.from_pretrained(runs(name), dtype="float32")
    questions = [QUESTION, "Is this a CT scan of 77?", "Which organ is shown?", QUESTION]
    expected = predictor.try_batch(images, questions, 1)
    predictor._kept.clear()
    stock = getattr(predictor.backend, step)

    def is_bad(*arguments):
        if step == "encode_images":
            return any(not pixels.any() for pixels in arguments[0])
        texts = [arguments[0]] if step == "fit_question" else [row["question"] for row in arguments[0]]
        return any("77" in text for text in texts)

    def changed(*arguments):
        if is_bad(*arguments):
            raise RuntimeError("CUDA out of memory. " * 30)
        return stock(*arguments)

    monkeypatch.setattr(predictor.backend, step, changed)
    results = predictor.try_batch(images, questions, 1)
    assert isinstance(results[1], UserError)
    assert is_sentence(str(results[1]))
    assert "bad.png': the model can't answer this question about it (RuntimeError: CUDA out" in str(results[1])
    for number in (0, 2, 3):
        assert isinstance(results[number], Answer)
        assert results[number].answer == expected[number].answer
        assert results[number].confidence == pytest.approx(expected[number].confidence, rel=1e-4)
    assert "4 questions can't be asked together (RuntimeError: CUDA out of memory." in caplog.text


def test_things_that_are_no_image_are_errors_of_their_rows(vilt, images):
    class Odd:
        __hash__ = None

    class Failing:
        def __hash__(self):
            raise TypeError("no hash")

    others = [None, 7, [1, 2], {"bytes": 1}, ([],), Odd(), Failing(), "gone.png", b"", b"text", "a\0b"]
    results = vilt.try_batch([*others, images[0]], [QUESTION] * (len(others) + 1), 1)
    for one in results[:-1]:
        assert isinstance(one, UserError)
        assert is_sentence(str(one))
    assert isinstance(results[-1], Answer)


def test_things_that_are_no_question_are_errors_of_their_rows(vilt, images):
    others = [None, 7, "", " \n", "x" * 5_000, [QUESTION], b"Is it?"]
    results = vilt.try_batch([images[0]] * (len(others) + 1), [*others, QUESTION], 1)
    assert all(isinstance(one, UserError) and is_sentence(str(one)) for one in results[:-1])
    assert isinstance(results[-1], Answer)


def test_a_table_is_answered_although_images_fail(runs, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(family_predictor, "resize", fail_for_bad(family_predictor.resize, OverflowError("too thin")))
    for path in images:
        shutil.copy(path, tmp_path)
    table = "image,question\n" + "".join(f"{path.rsplit('/', 1)[1]},{QUESTION}\n" for path in images)
    (tmp_path / "in.csv").write_text(table)
    out = tmp_path / "out.csv"
    main([str(runs("vilt")), "--csv", str(tmp_path / "in.csv"), "--out", str(out), "--dtype", "float32"])
    assert "1 rows have an error" in capsys.readouterr().out
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    assert [bool(row["prediction"]) for row in rows] == [True, False, True, True]
    assert "preparing it for the model failed (OverflowError: too thin); leave it out." in rows[1]["error"]


def test_interruptions_are_not_taken_for_errors_of_a_row(vilt, images, monkeypatch):
    monkeypatch.setattr(family_predictor, "resize", fail_for_bad(family_predictor.resize, KeyboardInterrupt()))
    vilt._kept.clear()
    with pytest.raises(KeyboardInterrupt):
        vilt.try_batch(images, [QUESTION] * 4, 1)
