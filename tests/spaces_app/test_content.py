"""What the apps say, and the models that they ask."""

from pathlib import Path

import pytest

from metrics.abstention import SILENT_EVERYWHERE
from modeling.parts.evidence import Detection, Evidence
from spaces_app import models
from spaces_app.content import DEFAULT_COMPARED, DEFAULT_MODEL, what_is_seen, why_silent


def test_a_model_that_never_answers_speaks_of_no_confidence_above_1():
    assert why_silent(0.876).startswith("The model gives no answer below a confidence of 88%")
    assert why_silent(SILENT_EVERYWHERE).startswith("The model gives no answer at all")


def test_what_is_seen_and_whether_it_contradicts_the_answer():
    lungs = [Detection("Lung", probability, (0, 0, 0.5, 0.5)) for probability in (0.9, 0.7)]
    found = (*lungs, Detection("Heart", 0.6, (0, 0, 0.1, 0.1)))
    assert what_is_seen(Evidence((), found)) == "Seen: Lung in 2 places (90%), Heart (60%)."
    assert what_is_seen(Evidence((), found[2:], contradicts=True)) == (
        "Seen: Heart (60%). What the model sees in the image speaks against this answer."
    )
    chinese = (found[2], Detection("肝脏", 0.5, (0, 0, 0.1, 0.1)))
    assert what_is_seen(Evidence((), chinese)) == "Seen: Heart (60%), #2 肝脏 (50%)."
    assert what_is_seen(Evidence((), (), contradicts=True)) == (
        "The model finds no place for it in the image. What the model sees in the image speaks against this answer."
    )


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, [DEFAULT_MODEL, "trained"]),
        ({"MODEL_ID": "out"}, ["out"]),
        ({"COMPARE_MODEL_ID": "out"}, [DEFAULT_MODEL, "out"]),
        ({"MODEL_ID": "a", "COMPARE_MODEL_ID": "b"}, ["a", "b"]),
    ],
)
def test_both_demos_are_asked_where_no_model_is_named(given, asked, tmp_path, monkeypatch):
    for variable in ("MODEL_ID", "COMPARE_MODEL_ID"):
        monkeypatch.setenv(variable, given.get(variable, ""))
    (tmp_path / "adapter_config.json").touch()
    monkeypatch.setattr(models, "DEFAULT_COMPARED", str(tmp_path))
    assert models.model_names() == [str(tmp_path) if name == "trained" else name for name in asked]


def test_a_second_demo_that_is_not_trained_is_not_asked(tmp_path, monkeypatch):
    for variable in ("MODEL_ID", "COMPARE_MODEL_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(models, "DEFAULT_COMPARED", str(tmp_path))
    assert models.model_names() == [DEFAULT_MODEL]
    makefile = (Path(models.__file__).parents[1] / "Makefile").read_text()
    assert f"--output_dir output/{Path(DEFAULT_COMPARED).name}\n" in makefile
