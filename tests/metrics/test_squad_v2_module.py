"""The SQuAD v2 module: it loads without the network, and refuses rows that don't fit together."""

import json
import os
import subprocess
import sys

import datasets
import evaluate
import pytest

from metrics.squad_v2.scoring import squad_v2_scores
from tests.metrics.squad_v2_rows import MODULE, ROOT, gold, predicted

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
