"""metrics.spread: mean and standard deviation over runs."""

import json

import pytest

from metrics.spread import main
from processing.errors import UserError


def test_mean_and_sample_deviation_of_every_figure(tmp_path, capsys):
    for name, exact, f1 in (("a", 80.0, 82.0), ("b", 83.0, 82.0), ("c", 86.0, 85.0)):
        (tmp_path / name).mkdir()
        figures = {
            "eval_exact_match": exact,
            "test_f1": f1,
            "eval_majority_f1": 5.0,
            "eval_total": 9,
            "train_loss": 1.0,
        }
        (tmp_path / name / "all_results.json").write_text(json.dumps(figures))
    main([str(tmp_path / name) for name in "abc"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "eval_exact_match 83.00 ± 3.00 (80.00, 83.00, 86.00)",
        "test_f1 83.00 ± 1.73 (82.00, 82.00, 85.00)",
    ]
    with pytest.raises(UserError, match="one run has no spread"):
        main([str(tmp_path / "a")])
    with pytest.raises(UserError, match=r"d/all_results.json: there is no such file"):
        main([str(tmp_path / "a"), str(tmp_path / "d")])
