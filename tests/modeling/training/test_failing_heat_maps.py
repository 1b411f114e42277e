"""modeling.training.evaluation: heat maps that fail cost themselves alone, not the report."""

import json
import logging

import pytest

import train
from modeling.training import evaluation
from modeling.vilt import family

FLAGS = ["--model_name_or_path", "scratch:tiny", "--max_steps", "2", "--save_strategy", "no", "--eval_strategy", "no"]
FLAGS += ["--disable_tqdm", "True", "--fp16", "False"]


def figures(folder) -> dict:
    return json.loads((folder / "report" / "report.json").read_text())["validation"]["figures"]


@pytest.mark.parametrize("error", [IndexError("index out of range in self"), MemoryError(), RuntimeError("CUDA: out")])
def test_run_has_its_report_where_some_heat_maps_fail(phantoms, tmp_path, monkeypatch, caplog, error):
    caplog.set_level(logging.WARNING)
    train.main([*FLAGS, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "whole")])
    asked = []

    def fail_later(trainer, rows):
        asked.append(len(rows))
        if len(asked) > 1:
            raise error
        return real(trainer, rows)

    real = family.heat_maps
    monkeypatch.setattr(family, "heat_maps", fail_later)
    monkeypatch.setattr(evaluation, "HEAT_MAP_BATCH", 3)
    train.main([*FLAGS, "--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")])
    assert asked == [3, 3]
    assert figures(tmp_path / "out") == figures(tmp_path / "whole")
    warnings = [text for text in caplog.messages if text.startswith("No heat maps for ")]
    assert len(warnings) == 1
    assert type(error).__name__ in warnings[0]
    failed, of = (int(word) for word in warnings[0].split() if word.isdigit())
    assert of - failed == 3
    page = (tmp_path / "out" / "report" / "errors.html").read_text()
    assert (
        page.count("data:image/png") <= 3 < (tmp_path / "whole/report/errors.html").read_text().count("data:image/png")
    )
