"""The SQuAD v2 module: loading without the network, and figures against torchmetrics and against hand-worked ones."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import evaluate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as torchmetrics_squad

from metrics.squad_v2.scoring import squad_v2_scores
from metrics.squad_v2.squad_v2 import exact_score, f1_score, normalize_answer

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "metrics" / "squad_v2"

# Records and refuses whatever asks for a name or a connection, then scores by both kinds of path.
OFFLINE_SCRIPT = """
import json, os, sys

network = []

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        network.append(event)
        raise OSError("no network in this test")

sys.addaudithook(refuse)
# transformers is most of evaluate's import time, and not needed to load a module.
sys.modules["transformers"] = None
import evaluate

del sys.modules["transformers"]
relative = evaluate.load("metrics/squad_v2")
os.chdir(os.environ["HF_HOME"])
absolute = evaluate.load(sys.argv[1])
rows = dict(
    predictions=[{"id": "1", "prediction_text": "left lung", "no_answer_probability": 0.0}],
    references=[{"id": "1", "answers": {"text": ["Lung"], "answer_start": [0]}}],
)
print(json.dumps([network, "torch" in sys.modules, relative.compute(**rows), absolute.compute(**rows)]))
"""


def predicted(id_, text, probability=0.0):
    return {"id": id_, "prediction_text": text, "no_answer_probability": probability}


def gold(id_, *texts):
    return {"id": id_, "answers": {"text": list(texts), "answer_start": [0] * len(texts)}}


@pytest.fixture(scope="module")
def metric():
    # In memory: test processes that run side by side then share no file of rows.
    return evaluate.load(str(MODULE), keep_in_memory=True)


@pytest.fixture
def mixed():
    """Two questions with an answer and two without; the probabilities are exact in float32."""
    predictions = [
        predicted("q1", "The lung.", 0.125),  # right: exact 1, F1 1
        predicted("q2", "kidney", 0.25),  # P = 1, R = 1/2: exact 0, F1 2/3
        predicted("q3", "liver", 0.5),  # has no answer: 0 and 0
        predicted("q4", "", 0.75),  # has no answer: 1 and 1
    ]
    references = [gold("q1", "lung"), gold("q2", "left kidney"), gold("q3"), gold("q4")]
    return {"predictions": predictions, "references": references}


# Loading


def test_loads_without_network_by_relative_and_absolute_path_in_two_processes_at_once(tmp_path):
    # Both start on one empty cache, as the processes of `accelerate launch` do.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTEST_"))}
    environment |= {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OFFLINE_SCRIPT, str(MODULE)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        network, torch_imported, relative, absolute = json.loads(out.splitlines()[-1])
        assert network == []
        assert not torch_imported  # by the module itself; evaluate gets it from transformers
        assert relative == absolute
        assert relative["f1"] == pytest.approx(200 / 3)


def test_scoring_imports_neither_torch_nor_evaluate():
    script = (
        "import sys, metrics.squad_v2.scoring;"
        "print([name for name in ('torch', 'transformers', 'evaluate', 'datasets', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_features_are_those_of_the_official_metric(metric):
    expected = datasets.Features(
        {
            "predictions": {
                "id": datasets.Value("string"),
                "prediction_text": datasets.Value("string"),
                "no_answer_probability": datasets.Value("float32"),
            },
            "references": {
                "id": datasets.Value("string"),
                "answers": {
                    "text": datasets.List(datasets.Value("string")),
                    "answer_start": datasets.List(datasets.Value("int32")),
                },
            },
        }
    )
    assert metric.features == expected
    assert list(metric.features) == ["predictions", "references"]


def test_module_gives_the_figures_of_the_plain_function(metric, mixed):
    assert metric.compute(**mixed, no_answer_threshold=0.25) == squad_v2_scores(**mixed, no_answer_threshold=0.25)


def test_batches_add_up_to_one_computation(metric, mixed):
    for prediction, reference in zip(mixed["predictions"], mixed["references"], strict=True):
        metric.add_batch(predictions=[prediction], references=[reference])
    assert metric.compute() == squad_v2_scores(**mixed)


def test_the_example_in_the_documentation_holds(metric):
    rows = {"predictions": [predicted("1", "left lung")], "references": [gold("1", "Lung")]}
    shown = metric.inputs_description.rstrip().splitlines()[-1].strip()
    assert repr(round(metric.compute(**rows)["f1"], 2)) == shown


# Figures and their order


def test_keys_come_in_the_official_order_with_the_official_types(metric, mixed):
    figures = metric.compute(**mixed)
    assert list(figures) == [
        "exact",
        "f1",
        "total",
        "HasAns_exact",
        "HasAns_f1",
        "HasAns_total",
        "NoAns_exact",
        "NoAns_f1",
        "NoAns_total",
        "best_exact",
        "best_exact_thresh",
        "best_f1",
        "best_f1_thresh",
    ]
    assert {key: type(value) for key, value in figures.items()} == {
        key: int if key.endswith("total") else float for key in figures
    }


@pytest.mark.parametrize(("texts", "group", "other"), [(["lung"], "HasAns", "NoAns"), ([], "NoAns", "HasAns")])
def test_only_a_group_that_occurs_has_figures(metric, texts, group, other):
    figures = metric.compute(predictions=[predicted("1", "lung")], references=[gold("1", *texts)])
    assert figures[f"{group}_total"] == 1
    assert not [key for key in figures if key.startswith(other)]


def test_mixed_groups_match_figures_worked_by_hand(metric, mixed):
    figures = metric.compute(**mixed)
    assert figures == {
        "exact": 50.0,  # (1 + 0 + 0 + 1) / 4
        "f1": pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4),
        "total": 4,
        "HasAns_exact": 50.0,  # q1 of q1, q2
        "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 2),
        "HasAns_total": 2,
        "NoAns_exact": 50.0,  # q4 of q3, q4
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
        # Nothing answered: 2 right (q3, q4). q1 comes in: 3. q2: 3 (exact), 3 2/3 (F1). q3: one less. q4 is silent.
        # Exact: 3 is reached first at q1, and q2 does not better it. F1: 3 2/3 at q2.
        "best_exact": 75.0,
        "best_exact_thresh": 0.125,
        "best_f1": pytest.approx(100 * (3 + 2 / 3) / 4),
        "best_f1_thresh": 0.25,
    }


# The threshold


def test_only_a_probability_strictly_above_the_threshold_counts_as_no_answer(metric, mixed):
    # Above 0.25 are q3 (has none: now right) and q4 (right before and after); q2 at 0.25 keeps its 2/3.
    at_q2 = metric.compute(**mixed, no_answer_threshold=0.25)
    assert (at_q2["HasAns_f1"], at_q2["NoAns_exact"], at_q2["exact"]) == (pytest.approx(100 * 5 / 6), 100.0, 75.0)
    # Above 0.2 is q2 as well: it has an answer, so "no answer" scores 0.
    below_q2 = metric.compute(**mixed, no_answer_threshold=0.2)
    assert (below_q2["HasAns_f1"], below_q2["NoAns_exact"], below_q2["exact"]) == (50.0, 100.0, 75.0)


def test_default_threshold_lets_every_probability_pass(metric):
    rows = {"predictions": [predicted("1", "lung", 1.0)], "references": [gold("1", "lung")]}
    assert metric.compute(**rows)["exact"] == squad_v2_scores(**rows)["exact"] == 100.0


def test_the_threshold_leaves_the_best_figures_alone(metric, mixed):
    best = [
        [value for key, value in metric.compute(**mixed, no_answer_threshold=threshold).items() if "best" in key]
        for threshold in (0.0, 0.3, 1.0)
    ]
    assert best[0] == best[1] == best[2]


def test_probabilities_are_float32_as_in_the_official_metric(metric):
    # The float32 next to 0.1 is 0.10000000149: above 0.1, so the right answer counts as "no answer".
    rows = {"predictions": [predicted("1", "lung", 0.1)], "references": [gold("1", "lung")]}
    figures = metric.compute(**rows, no_answer_threshold=0.1)
    assert figures["exact"] == 0.0
    assert figures["best_exact_thresh"] == 0.10000000149011612
    assert metric.compute(**rows, no_answer_threshold=figures["best_exact_thresh"])["exact"] == 100.0


def test_best_threshold_is_zero_where_answering_never_pays():
    # Nothing answered: 2 right. The wrong prediction for q1 adds 0, that for q2 takes 1, the silence of q3 takes 0.
    figures = squad_v2_scores(
        [predicted("q1", "heart", 0.25), predicted("q2", "heart", 0.5), predicted("q3", "", 0.75)],
        [gold("q1", "lung"), gold("q2"), gold("q3")],
    )
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (pytest.approx(200 / 3), 0.0)
    assert (figures["best_f1"], figures["best_f1_thresh"]) == (pytest.approx(200 / 3), 0.0)


def test_best_threshold_passes_a_loss_that_later_answers_make_good():
    # Nothing answered: 1 right (q1). By rising probability: q1 -1 = 0, q2 +1 = 1, q3 +1 = 2 of 3, at 0.75.
    figures = squad_v2_scores(
        [predicted("q2", "lung", 0.5), predicted("q3", "lung", 0.75), predicted("q1", "heart", 0.25)],
        [gold("q1"), gold("q2", "lung"), gold("q3", "lung")],
    )
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (pytest.approx(200 / 3), 0.75)


def test_best_threshold_takes_nothing_for_silence_where_there_is_no_answer():
    # Nothing answered: 1 right (q1). The silence of q1 takes 0, q2 adds 1: 2 of 2, at 0.5.
    figures = squad_v2_scores(
        [predicted("q1", "", 0.25), predicted("q2", "lung", 0.5)], [gold("q1"), gold("q2", "lung")]
    )
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (100.0, 0.5)


def test_best_threshold_counts_an_article_as_an_answer_though_exact_match_does_not():
    # "the" normalises to nothing: right for q1 in `exact`, but the search sees text. 1 right; q1 -1 = 0; q2 +1 = 1.
    figures = squad_v2_scores(
        [predicted("q1", "the", 0.25), predicted("q2", "lung", 0.5)], [gold("q1"), gold("q2", "lung")]
    )
    assert figures["exact"] == 100.0
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (50.0, 0.0)


@pytest.mark.parametrize(
    ("order", "best", "threshold"),
    [
        (["right", "wrong"], 100.0, 0.5),  # 1 right, then +1 = 2 of 2, then -1
        (["wrong", "right"], 50.0, 0.0),  # 1 right, then -1 = 0, then +1 = 1: never above the start
    ],
)
def test_equal_probabilities_are_searched_in_the_order_of_the_predictions(order, best, threshold):
    of = {"right": predicted("q1", "lung", 0.5), "wrong": predicted("q2", "heart", 0.5)}
    figures = squad_v2_scores([of[name] for name in order], [gold("q1", "lung"), gold("q2")])
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (best, threshold)


# Answers


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Left\tLung.", "left lung"),
        ("a mass in an organ", "mass in organ"),
        ("Anatomy of theatre", "anatomy of theatre"),  # articles are whole words
        ("hepatitis-A", "hepatitisa"),  # punctuation goes first
        ("lung\u2014the\u2014heart", "lung\u2014 \u2014heart"),  # an article leaves a space behind
        ("T1-weighted", "t1weighted"),
        ("1.5 cm", "15 cm"),
        ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", ""),
        ("左肺、右肺。", "左肺、右肺。"),  # only ASCII punctuation goes
        ("A型 肝炎", "a型 肝炎"),  # no word boundary between a letter and an ideograph
        ("ÉPANCHEMENT\u00a0pleural", "épanchement pleural"),
        ("the", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("left lung", "The left lung.", 1, 1),
        ("left lung", "lung", 0, 2 / 3),  # P = 1/2, R = 1
        ("left left lung", "left lung lung", 0, 2 / 3),  # left once, lung once: P = R = 2/3
        ("lung lung lung", "lung", 0, 1 / 2),  # P = 1/3, R = 1
        ("heart", "lung", 0, 0),
        ("", "lung", 0, 0),
        ("the", "", 1, 1),
        ("左肺", "左肺", 1, 1),
        ("左肺", "肺", 0, 0),  # without spaces one token
        ("左 肺", "肺", 0, 2 / 3),
    ],
)
def test_exact_match_and_f1_of_a_pair(prediction, answer, exact, f1):
    assert exact_score(prediction, answer) == exact_score(answer, prediction) == exact
    assert f1_score(prediction, answer) == f1_score(answer, prediction) == pytest.approx(f1)


def test_the_best_of_several_gold_answers_counts(metric):
    # Against "left upper lobe" P = R = 2/3; against "upper lobe" P = 2/3, R = 1, F1 = 4/5.
    figures = metric.compute(
        predictions=[predicted("1", "right upper lobe")], references=[gold("1", "left upper lobe", "upper lobe")]
    )
    assert (figures["exact"], figures["f1"]) == (0.0, pytest.approx(80))
    figures = metric.compute(predictions=[predicted("1", "lung")], references=[gold("1", "heart", "lung")])
    assert (figures["exact"], figures["f1"]) == (100.0, 100.0)


def test_gold_answers_that_normalise_to_nothing_are_dropped(metric):
    figures = metric.compute(predictions=[predicted("1", "")], references=[gold("1", "the", "lung")])
    assert (figures["exact"], figures["f1"]) == (0.0, 0.0)


@pytest.mark.parametrize("text", ["the", ""])
def test_a_question_whose_gold_answers_are_all_dropped_expects_silence_and_stays_one_with_an_answer(metric, text):
    figures = metric.compute(predictions=[predicted("1", "a")], references=[gold("1", text)])
    assert (figures["HasAns_exact"], figures["HasAns_f1"], figures["HasAns_total"]) == (100.0, 100.0, 1)


@pytest.mark.parametrize(("text", "score"), [("", 100.0), ("an", 100.0), ("lung", 0.0)])
def test_a_question_without_an_answer_expects_silence(metric, text, score):
    figures = metric.compute(predictions=[predicted("1", text)], references=[gold("1")])
    assert (figures["NoAns_exact"], figures["NoAns_f1"]) == (score, score)


WORDS = [
    "the",
    "A",
    "an",
    "lung",
    "Lung",
    "left",
    "left-lung",
    "kidney.",
    "x-ray",
    "1.5",
    "15",
    "肺",
    "左肺",
    "。",
    "--",
]
answers = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
)
# torchmetrics follows SQuAD v1.1, which keeps the gold answers that version 2 drops.
golds = st.lists(answers.filter(normalize_answer), min_size=1, max_size=3)
questions = st.lists(st.tuples(answers, golds), min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@given(questions)
def test_questions_with_an_answer_score_as_in_torchmetrics(questions):
    predictions = [predicted(str(i), text) for i, (text, _) in enumerate(questions)]
    references = [gold(str(i), *golds) for i, (_, golds) in enumerate(questions)]
    theirs = torchmetrics_squad(
        [{"id": row["id"], "prediction_text": row["prediction_text"]} for row in predictions], references
    )
    ours = squad_v2_scores(predictions, references)
    assert ours["exact"] == ours["HasAns_exact"] == pytest.approx(theirs["exact_match"].item(), rel=1e-5)
    assert ours["f1"] == ours["HasAns_f1"] == pytest.approx(theirs["f1"].item(), rel=1e-5)


def test_a_known_set_scores_as_in_torchmetrics_through_the_module(metric):
    texts = [("The left lung", ["lung", "left lung"]), ("no", ["Yes"]), ("1.5 cm", ["1.5cm", "15 cm wide"])]
    predictions = [predicted(str(i), text) for i, (text, _) in enumerate(texts)]
    references = [gold(str(i), *golds) for i, (_, golds) in enumerate(texts)]
    theirs = torchmetrics_squad(
        [{"id": row["id"], "prediction_text": row["prediction_text"]} for row in predictions], references
    )
    ours = metric.compute(predictions=predictions, references=references)
    # "1.5 cm" against "15 cm wide": P = 1, R = 2/3, F1 = 4/5.
    assert ours["exact"] == pytest.approx(theirs["exact_match"].item(), rel=1e-5) == pytest.approx(100 / 3)
    assert ours["f1"] == pytest.approx(theirs["f1"].item(), rel=1e-5) == pytest.approx(60)


@given(answers, answers)
def test_f1_is_symmetric_and_never_below_exact_match(one, other):
    assert f1_score(one, other) == f1_score(other, one)
    assert exact_score(one, other) <= f1_score(one, other) <= 1


# Rows that don't fit together


def test_a_question_without_a_prediction_is_left_out_of_every_figure_with_a_warning(metric, caplog):
    # Scored: q1 (right) and q3 (has none, answered). q2 and q4 have no prediction; q9 has no reference.
    figures = metric.compute(
        predictions=[predicted("q1", "lung"), predicted("q3", "x", 0.5), predicted("q9", "y"), predicted("q9", "z")],
        references=[gold("q1", "lung"), gold("q2", "heart"), gold("q3"), gold("q4")],
    )
    assert (figures["total"], figures["HasAns_total"], figures["NoAns_total"]) == (2, 1, 1)
    assert (figures["exact"], figures["HasAns_exact"], figures["NoAns_exact"]) == (50.0, 100.0, 0.0)
    # Nothing answered: 1 right (q3; q4 is not scored); q1 comes in: 2 of 2.
    assert (figures["best_exact"], figures["best_exact_thresh"]) == (100.0, 0.0)
    assert "Missing prediction for 2 questions (the first is 'q2')" in caplog.text


def test_of_rows_with_one_id_the_last_counts_with_a_warning(metric, caplog):
    figures = metric.compute(
        predictions=[predicted("q1", "heart"), predicted("q1", "lung"), predicted("q2", "")],
        references=[gold("q1", "heart"), gold("q2"), gold("q1", "lung")],
    )
    assert (figures["total"], figures["exact"]) == (2, 100.0)
    assert "2 ids occur more than once" in caplog.text


def test_rows_that_fit_together_warn_of_nothing(metric, mixed, caplog):
    metric.compute(**mixed)
    assert not caplog.records


def test_empty_input_is_refused_in_one_sentence(metric):
    with pytest.raises(ValueError, match=r"^No question to score: 0 references and 0 predictions share no id\.$"):
        metric.compute(predictions=[], references=[])


def test_rows_without_a_common_id_are_refused(metric):
    with pytest.raises(ValueError, match="No question to score: 1 references and 1 predictions share no id"):
        metric.compute(predictions=[predicted("1", "lung")], references=[gold("2", "lung")])


@pytest.mark.parametrize("probability", [None, float("nan")])
def test_a_prediction_without_a_probability_is_refused(metric, probability):
    with pytest.raises(ValueError, match=r"^Prediction 'q1' needs .* no_answer_probability \(0.0 if .*\)"):
        metric.compute(predictions=[predicted("q1", "lung", probability)], references=[gold("q1", "lung")])


def test_a_prediction_without_a_text_is_refused():
    with pytest.raises(ValueError, match="Prediction 'q1' needs a prediction_text"):
        squad_v2_scores([predicted("q1", None)], [gold("q1", "lung")])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["lung"], ["lung"], "don't match the expected format"),
        ([predicted(1, "lung")], [gold(1, "lung")], "don't match the expected format"),
        ([predicted("1", "lung")], [gold("1", "lung"), gold("2")], "Mismatch in the number of predictions"),
        ([predicted("1", "lung", "high")], [gold("1", "lung")], "could not convert string to float"),
    ],
)
def test_rows_of_another_form_are_refused_by_evaluate(predictions, references, message):
    # A module of its own: evaluate keeps a refused batch's writer open.
    module = evaluate.load(str(MODULE), keep_in_memory=True)
    with pytest.raises(ValueError, match=message):
        module.compute(predictions=predictions, references=references)


def test_a_hundred_thousand_answers_take_seconds():
    count = 100_000
    predictions = [predicted(str(i), f"left lung {i % 7}", i / count) for i in range(count)]
    references = [gold(str(i), *([f"the lung {i % 5}"] if i % 4 else [])) for i in range(count)]
    start = time.perf_counter()
    assert squad_v2_scores(predictions, references)["total"] == count
    assert time.perf_counter() - start < 10  # 1.5 s here; a search that scores anew at each threshold takes hours
