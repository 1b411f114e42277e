"""modeling.asking.predictor: every kind of model answers as in its evaluation."""

import json
import shutil

import pytest
import torch

from modeling.asking import predictor as module
from modeling.asking.predictor import Answer, Predictor
from processing.errors import UserError
from processing.images import ImageError
from tests.conftest import RUNS

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models


@pytest.mark.parametrize(
    "name", ["vilt", "starter", "opt", "llama", "llama/merged", "t5", "smolvlm", "smolvlm/merged"]
)
def test_answers_equal_those_of_the_evaluation(runs, dataset, name):
    run, _, part = name.partition("/")
    lines = (runs(run) / "predictions_validation.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines]
    assert len({line["confidence"] for line in expected}) > 10
    rows = dataset["validation"]
    predictor = Predictor.from_pretrained(runs(run) / part, dtype="float32" if "--fp16" in RUNS[run] else None)
    answers = predictor.answer_batch(list(rows["image"]), list(rows["question"]), top_k=1)
    assert [answer.answer for answer in answers] == [line["prediction"] for line in expected]
    confidences = [line["confidence"] for line in expected]
    tolerance = 0.02 if run == "starter" else 1e-4  # the starter ran in bf16, over features that batches round
    assert [answer.confidence for answer in answers] == pytest.approx(confidences, rel=tolerance, abs=1e-6)
    assert not any(answer.alternatives or answer.question_cut for answer in answers)


@pytest.mark.parametrize("name", ["vilt", "starter", "opt", "llama", "t5", "smolvlm"])
def test_alternatives_are_other_answers_in_their_order(trained_predictor, dataset, name):
    predictor = trained_predictor(name)
    rows = dataset["validation"][:6]
    for answer in predictor.answer_batch(rows["image"], rows["question"], top_k=4):
        confidences = [other.confidence for other in answer.alternatives]
        assert len({answer.answer, *(other.answer for other in answer.alternatives)}) == 1 + len(confidences) <= 4
        assert confidences == sorted(confidences, reverse=True)
        assert all(0 < confidence <= 1 for confidence in confidences)
        if name in ("vilt", "starter", "llama"):
            assert len(confidences) == 3
            assert answer.confidence >= confidences[0]
    alone = predictor.answer(rows["image"][0], rows["question"][0], top_k=1)
    assert (alone.answer, alone.alternatives) == (predictor.answer(rows["image"][0], rows["question"][0]).answer, ())


@pytest.mark.parametrize(("name", "activation"), [("vilt", "sigmoid"), ("starter", "softmax")])
def test_confidences_are_probabilities_of_the_models_loss(runs, images, name, activation):
    predictor = Predictor.from_pretrained(runs(name))
    answer = predictor.answer(images[0], "Is this a CT scan?", top_k=10_000)
    total = answer.confidence + sum(other.confidence for other in answer.alternatives)
    assert len(answer.alternatives) == predictor.model.config.num_labels - 1
    assert (total == pytest.approx(1, abs=1e-4)) == (activation == "softmax")


def test_one_question_gets_the_answer_it_gets_among_many(starter, dataset):
    rows = dataset["validation"][:20]
    together = starter.answer_batch(rows["image"], rows["question"])
    alone = [starter.answer(*pair) for pair in zip(rows["image"], rows["question"], strict=True)]
    assert [answer.answer for answer in together] == [answer.answer for answer in alone]
    confidences = [answer.confidence for answer in alone]
    assert [answer.confidence for answer in together] == pytest.approx(confidences, rel=1e-3)


def test_more_questions_than_a_batch_are_answered_in_their_order(vilt, dataset, monkeypatch):
    rows = dataset["validation"][:20]
    whole = vilt.answer_batch(rows["image"], rows["question"], top_k=1)
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    parts = vilt.answer_batch(rows["image"], rows["question"], top_k=1)
    assert [answer.answer for answer in parts] == [answer.answer for answer in whole]


@pytest.mark.parametrize("name", ["vilt", "opt", "t5", "smolvlm"])
def test_long_question_is_cut_with_a_warning(trained_predictor, images, caplog, name):
    predictor = trained_predictor(name)
    short, long = "Is this a CT scan?", "脑" * 990  # three bytes each, a token each
    answers = predictor.answer_batch(images[0], [short, long], top_k=1)
    assert [answer.question_cut for answer in answers] == [False, True]
    assert "1 questions are longer than the model reads" in caplog.text
    assert predictor.answer(images[0], long + "And more?", top_k=1).confidence == pytest.approx(answers[1].confidence)


@pytest.mark.parametrize("question", ["", " \n", None])
def test_empty_question_is_refused(vilt, images, question):
    with pytest.raises(UserError, match="The question is empty"):
        vilt.answer(images[0], question)


@pytest.mark.parametrize("name", ["vilt", "llama", "llama/merged", "smolvlm"])
def test_a_question_unlike_the_training_is_marked(runs, images, name):
    run, _, part = name.partition("/")
    predictor = Predictor.from_pretrained(runs(run) / part)
    asked = ["Is this a CT scan?", "Which drug should I give?", "Is the liver healthy?"]
    answers = predictor.answer_batch(images[0], asked, top_k=1)
    assert [answer.unlike_training for answer in answers] == [False, True, False]
    older = Predictor(predictor.backend)  # of a model that kept no words
    assert not older.answer(images[0], asked[1], top_k=1).unlike_training


def test_endless_question_is_refused(vilt, images):
    with pytest.raises(UserError, match="The question has 1,001 characters; ask in at most 1,000"):
        vilt.answer(images[0], "x" * 1_001)


def test_odd_characters_in_a_question_do_no_harm(vilt, images):
    assert vilt.answer(images[0], "Is \ud800 this\x00 {} a CT?\n").answer is not None


def test_stock_blip2_is_asked_as_its_paper_does(runs, images, tmp_path):
    shutil.copytree(runs("llama") / "merged", tmp_path / "m", ignore=shutil.ignore_patterns("answering.json"))
    predictor = Predictor.from_pretrained(tmp_path / "m")
    assert predictor.backend.answering.prompt == "Question: {} Answer:"
    assert predictor.answer(images[0], "Is this a CT scan?").confidence > 0


@pytest.mark.parametrize("name", ["vilt", "opt"])
def test_precisions_agree_and_are_used(runs, images, name):
    answers = [
        Predictor.from_pretrained(runs(name), dtype=dtype).answer(images[0], "Is this a CT scan?", top_k=1)
        for dtype in ("float32", torch.bfloat16, "float16")
    ]
    confidences = [answer.confidence for answer in answers]
    assert len(set(confidences)) == 3
    assert confidences == pytest.approx([confidences[0]] * 3, rel=0.05)


def test_torch_with_cuda_on_a_machine_without_a_gpu_answers_on_the_cpu(runs, images, monkeypatch):
    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    predictor = Predictor.from_pretrained(runs("vilt"))
    assert predictor.backend.device.type == "cpu"
    assert predictor.answer(images[0], "Is this a CT scan?").answer


def test_unknown_device_and_dtype_are_refused(runs):
    with pytest.raises(UserError, match="device cuda:7: there is none here"):
        Predictor.from_pretrained(runs("vilt"), device="cuda:7")
    with pytest.raises(UserError, match="dtype int8: unknown; choose float32"):
        Predictor.from_pretrained(runs("vilt"), dtype="int8")


def test_wrong_arguments_are_refused(vilt, images):
    with pytest.raises(UserError, match="2 images for 1 questions"):
        vilt.answer_batch(images[:2], ["CT?"])
    with pytest.raises(UserError, match="top_k 0: must be at least 1"):
        vilt.answer(images[0], "CT?", top_k=0)
    with pytest.raises(ImageError, match="gone.png.*it does not exist"):
        vilt.answer("gone.png", "CT?")
    assert vilt.answer_batch(images[0], []) == []


def test_answer_is_a_plain_value():
    assert Answer("Yes", 0.5) == Answer("Yes", 0.5, (), False)
