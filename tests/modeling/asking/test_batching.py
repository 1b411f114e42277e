"""modeling.asking.batching: what several threads ask at the same time is answered together, as it would be alone."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from modeling.asking.batching import Batching, Call
from modeling.asking.predictor import Answer
from processing.errors import UserError

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models

QUESTION = "Which organ is shown in this image, if any?"


def wait_for(batching, calls):
    """Returns when so many calls wait."""
    end = time.monotonic() + 60
    while len(batching._waiting) < calls:
        assert time.monotonic() < end, f"only {len(batching._waiting)} calls wait"
        time.sleep(0.001)


def ask_at_once(batching, functions):
    """What functions return that each ask a model, and that all wait, in their order, before the first is answered."""
    with ThreadPoolExecutor(len(functions)) as pool:
        futures: list[Future] = []
        with batching.alone():
            for number, function in enumerate(functions, 1):
                futures.append(pool.submit(function))
                wait_for(batching, number)
        return [future.result(timeout=60) for future in futures]


@pytest.fixture(params=["vilt", "starter", "llama"])
def counted(request, trained_predictor, monkeypatch):
    """A predictor, the questions of each forward, and the numbers of images that were encoded together."""
    predictor = trained_predictor(request.param)
    forwards: list[list[str]] = []
    encoded: list[int] = []
    rank, encode = predictor.backend.rank_answers, predictor.backend.encode_images

    def counted_rank(rows, *others):
        forwards.append([row["question"] for row in rows])
        return rank(rows, *others)

    def counted_encode(images):
        encoded.append(len(images))
        return encode(images)

    monkeypatch.setattr(predictor.backend, "rank_answers", counted_rank)
    monkeypatch.setattr(predictor.backend, "encode_images", counted_encode)
    return predictor, forwards, encoded


def test_ten_threads_are_answered_in_one_forward_as_each_alone(counted, images):
    predictor, forwards, encoded = counted
    asked = [(image, f"{QUESTION} {'And this? ' * number}") for number, image in enumerate(images[:10])]
    alone = [predictor.answer(*pair) for pair in asked]
    assert len({answer.confidence for answer in alone}) > 5
    predictor._kept.clear()
    forwards.clear()
    encoded.clear()
    together = ask_at_once(predictor._batching, [lambda pair=pair: predictor.answer(*pair) for pair in asked])
    assert [len(questions) for questions in forwards] == [10]
    assert encoded == [10]
    assert [answer.answer for answer in together] == [answer.answer for answer in alone]
    assert [answer.evidence is None for answer in together] == [answer.evidence is None for answer in alone]
    expected = [answer.confidence for answer in alone]
    assert [answer.confidence for answer in together] == pytest.approx(expected, abs=1e-4)


def test_an_image_that_ten_threads_ask_about_is_encoded_once(counted, images):
    predictor, forwards, encoded = counted
    asked = [lambda: predictor.answer(images[0], QUESTION) for _ in range(10)]
    assert len(set(ask_at_once(predictor._batching, asked))) == 1
    assert (len(forwards), encoded) == (1, [1])
    # read before the image was encoded, and asked afterwards
    later = [lambda top_k=top_k: predictor.answer(images[1], QUESTION, top_k) for top_k in (1, 2)]
    ask_at_once(predictor._batching, later)
    assert (len(forwards), encoded) == (3, [1, 1])


def test_a_bad_image_or_question_among_them_costs_itself_alone(counted, images, monkeypatch):
    predictor, forwards, _ = counted
    right = predictor.answer(images[0], QUESTION)
    rank = predictor.backend.rank_answers

    def fail_at_77(rows, *others):
        if any("77" in row["question"] for row in rows):
            raise RuntimeError("out of memory")
        return rank(rows, *others)

    monkeypatch.setattr(predictor.backend, "rank_answers", fail_at_77)
    forwards.clear()
    questions = [QUESTION, f"{QUESTION} 77", QUESTION]
    one_by_one = [lambda text=text: predictor.try_batch([images[0]], [text])[0] for text in questions]
    table = [lambda: predictor.try_batch([images[0], b"no image"], [QUESTION, QUESTION])]
    first, second, third, (fourth, fifth) = ask_at_once(predictor._batching, one_by_one + table)
    for answer in (first, third, fourth):
        assert isinstance(answer, Answer)
        assert answer.answer == right.answer
        assert answer.confidence == pytest.approx(right.confidence, abs=1e-4)
    assert isinstance(second, UserError)
    assert "RuntimeError: out of memory" in str(second)
    assert isinstance(fifth, UserError)
    assert "out of memory" not in str(fifth)


def test_heat_maps_and_answers_of_threads_use_the_model_one_after_the_other(vilt, images):
    expected = vilt.heat_map(images[0], QUESTION, "Yes")
    answer = vilt.answer(images[0], QUESTION, 1)
    maps = [lambda: vilt.heat_map(images[0], QUESTION, "Yes")] * 2
    answers = [lambda: vilt.answer(images[0], QUESTION, 1)] * 6
    with ThreadPoolExecutor(8) as pool:
        results = [future.result(60) for future in [pool.submit(function) for function in (maps + answers) * 3]]
    for result in results:
        if isinstance(result, Answer):
            assert result.confidence == pytest.approx(answer.confidence, abs=1e-4)
        else:
            assert result == pytest.approx(expected, abs=1e-6)


def call_of(*numbers, top_k=1):
    return Call([{"row": 0, "number": number} for number in numbers], {}, {}, top_k)


@pytest.fixture
def batches():
    """Batching of four rows, a function that asks it, and the batches that were answered."""
    batching, answered = Batching(4), []

    def answer(call):
        assert [row["row"] for row in call.rows] == list(range(len(call.rows)))
        answered.append((call.top_k, [row["number"] for row in call.rows]))
        return [10 * row["number"] for row in call.rows]

    return batching, lambda call: batching.ask(call, answer), answered


def test_calls_go_whole_and_in_their_order_up_to_the_size(batches):
    batching, ask, answered = batches
    calls = [call_of(1, 2, 3), call_of(4, 5), call_of(6), call_of(*range(7, 13)), call_of(13)]
    results = ask_at_once(batching, [lambda call=call: ask(call) for call in calls])
    assert results == [[10, 20, 30], [40, 50], [60], [70, 80, 90, 100, 110, 120], [130]]
    assert answered == [(1, [1, 2, 3, 6]), (1, [4, 5, 13]), (1, [7, 8, 9, 10, 11, 12])]
    assert batching._waiting == []


def test_calls_for_other_numbers_of_answers_are_asked_apart_and_are_not_passed_over(batches):
    batching, ask, answered = batches
    calls = [call_of(1), call_of(2, top_k=5), call_of(3), call_of(4, top_k=5)]
    assert ask_at_once(batching, [lambda call=call: ask(call) for call in calls]) == [[10], [20], [30], [40]]
    assert answered == [(1, [1, 3]), (5, [2, 4])]


def test_an_interruption_ends_one_thread_and_the_others_get_their_answers():
    batching = Batching(4)
    calls = [call_of(1), call_of(2), call_of(3)]
    interruptions = [KeyboardInterrupt()]

    def interrupted_once(call):
        if interruptions:
            raise interruptions.pop()
        return [row["number"] for row in call.rows]

    def ask_or_say(call):
        try:
            return batching.ask(call, interrupted_once)
        except KeyboardInterrupt:
            return "interrupted"

    results = ask_at_once(batching, [lambda call=call: ask_or_say(call) for call in calls])
    assert results.count("interrupted") == 1
    assert all(result in ("interrupted", [number]) for number, result in enumerate(results, 1))
    assert batching._waiting == []
