"""modeling.probe: whether a model looks at the image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.asking.consistency import IN_FILE, PART_NAMES
from modeling.asking.predictor import Answer, Predictor
from modeling.asking.probe import BLIND, HARMLESS, SHUFFLED, ask, probe, shuffled
from modeling.probe import main
from processing.errors import UserError
from processing.images import open_image

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the model


@pytest.fixture(scope="module")
def rows(dataset):
    return list(dataset["validation"])


class GreyPredictor:
    """It answers a question as it is answered of the known image whose mean grey is nearest."""

    def __init__(self, rows) -> None:
        self.known = [(self.grey(open_image(row["image"])), row["question"], row["answer"]) for row in rows]

    def grey(self, image) -> float:
        return float(np.asarray(image.convert("L")).mean())

    def try_batch(self, images, questions, top_k, choices):
        found = []
        for image, question in zip(images, questions, strict=True):
            mean = self.grey(image)
            nearest = [(abs(mean - grey), answer) for grey, asked, answer in self.known if asked == question]
            found.append(Answer(min(nearest)[1], 1.0))
        return found


def probed(predictor, rows):
    """The figures of a probe, and the rows whose answer another image leaves as it is."""
    answers = ask(predictor, [row["image"] for row in rows], [row["question"] for row in rows], "as it is")
    return probe(predictor, rows, answers)


def test_each_image_gets_one_other_and_none_its_own():
    other = shuffled(["a", "a", "b", "c", "c"])
    assert other.keys() == {"a", "b", "c"} == set(other.values())
    assert all(one != another for one, another in other.items())
    assert other == shuffled(["c", "b", "a"])
    with pytest.raises(UserError, match="The split has one image alone"):
        shuffled(["a", "a"])


def test_every_change_can_be_made_of_a_strip_longer_than_a_jpeg():
    strip = Image.new("RGB", (66_000, 40), (90, 90, 90))
    for name, change in (BLIND | HARMLESS).items():
        assert change(strip).width > 60_000, name
    assert strip.size == (66_000, 40)


def test_a_model_that_ignores_the_image_keeps_its_answers(trained, rows, monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 2)
    predictor = Predictor.from_pretrained(trained, dtype="float32")
    with torch.no_grad():
        for parameter in predictor.model.vilt.embeddings.patch_embeddings.parameters():
            parameter.zero_()
    figures, unchanged = probed(predictor, rows)
    assert len(unchanged) == len(rows)
    assert all(row["unchanged"] == [SHUFFLED, *BLIND] for row in unchanged)
    assert list(figures) == ["as it is", SHUFFLED, *BLIND, *HARMLESS]
    for name in (SHUFFLED, *BLIND):
        assert figures[name]["unchanged"] == 100
        drop, low, high = figures[name]["drop"]
        assert (drop, -low) == (0, high)
        assert high == pytest.approx(100 * (1 - 0.05 ** (1 / len({row["image_id"] for row in rows}))), abs=0.01)
        assert set(figures[name]["drop_by_content_type"].values()) == {0}


def test_a_model_that_reads_the_image_loses_its_answers_with_it(rows, monkeypatch):
    monkeypatch.setattr("metrics.intervals.MIN_IMAGES", 2)
    figures, unchanged = probed(GreyPredictor(rows), rows)
    assert len(unchanged) == round(figures[SHUFFLED]["unchanged"] / 100 * len(rows))
    assert unchanged[0].keys() == {"id", "image_id", "question", "answer", "prediction", "unchanged"}
    assert figures["as it is"]["drop"] == [0, None, None]
    assert figures["as it is"]["exact_match"] > 95  # two images may be as grey
    for name in (SHUFFLED, "blank"):
        drop, low, high = figures[name]["drop"]
        assert 0 < low < drop < high
        assert drop == pytest.approx(figures["as it is"]["exact_match"] - figures[name]["exact_match"], abs=0.02)
        assert figures[name]["unchanged"] < 90
    kinds = {row["content_type"] for row in rows}
    assert figures[SHUFFLED]["drop_by_content_type"].keys() == kinds
    weighed = sum(figures[SHUFFLED]["drop_by_content_type"][row["content_type"]] for row in rows) / len(rows)
    assert weighed == pytest.approx(figures[SHUFFLED]["drop"][0], abs=0.05)


def test_harmless_changes_change_little_and_not_nothing(rows):
    image = open_image(rows[0]["image"])
    plain = np.asarray(image, dtype=float)
    for name, change in HARMLESS.items():
        changed = np.asarray(change(image).resize(image.size), dtype=float)
        assert 0.3 < np.abs(changed - plain).mean() < 45, name


@pytest.mark.parametrize("name", ["vilt", "smolvlm"])
def test_command_line_leaves_a_table(runs, name, phantoms, rows, tmp_path, capsys):
    model = str(runs(name))
    wordings = tmp_path / "wordings.csv"
    wordings.write_text(f"question_id,wording\n{rows[0]['question_id']},Say it in a word\n")
    main([model, "--dataset", str(phantoms), "--output", str(tmp_path / "out"), "--wordings", str(wordings)])
    text = capsys.readouterr().out.strip()
    assert text == (tmp_path / "out" / "probe.md").read_text().strip()
    for head in ("## Images changed", "## Questions in other words", "## Answers that exclude each other"):
        assert head in text
    figures = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert figures["changes"]["as it is"]["unchanged"] == 100
    assert {entry["part"] for entry in figures["paraphrases"]} == {*PART_NAMES.values(), IN_FILE}
    own = next(entry for entry in figures["paraphrases"] if entry["part"] == IN_FILE)
    assert (own["group"], own["questions"], own["wordings"]) == ("all", 1, 1)
    unchanged = [json.loads(line) for line in (tmp_path / "out" / "unchanged.jsonl").read_text().splitlines()]
    assert all(SHUFFLED in row["unchanged"] for row in unchanged)
    with pytest.raises(UserError, match="it has no dev split; choose train, validation, test"):
        main([model, "--dataset", str(phantoms), "--split", "dev"])
