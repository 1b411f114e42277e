"""Bad input to the benchmarks is refused in a sentence, before any work."""

import pytest

from benchmarks import blip2_training, cost_model, plain_baseline, starter_training, vilt_training, vlm_training
from benchmarks.options import at_least, load_splits
from processing.errors import UserError


def test_splits_that_are_asked_for_are_loaded(phantoms):
    assert set(load_splits(str(phantoms), "train", "test")) == {"train", "test"}


def test_whole_numbers():
    assert at_least(2)("2") == 2


@pytest.mark.parametrize(
    ("number", "reason"), [("1", "1 is too small; give 2 or more."), ("many", "many is not a whole number.")]
)
@pytest.mark.parametrize("benchmark", [vilt_training, starter_training, blip2_training, vlm_training])
def test_too_few_steps_are_refused(benchmark, number, reason, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--steps", number])
    assert f"argument --steps: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", [starter_training, blip2_training, vlm_training])
def test_more_steps_than_there_are_rows_for_are_refused(benchmark, phantoms):
    with pytest.raises(UserError, match=r"--steps 99: .* give fewer steps or a smaller --batch_size."):
        benchmark.main(["--dataset", str(phantoms), "--steps", "99"])


def test_a_machine_without_speed_is_refused():
    with pytest.raises(UserError, match="--tflops 0: give a number above 0."):
        cost_model.main(["--tflops", "0"])


@pytest.mark.parametrize("benchmark", [plain_baseline, vilt_training, starter_training, blip2_training, vlm_training])
def test_data_without_training_rows_is_refused(benchmark, phantoms, tmp_path):
    for file in phantoms.iterdir():
        if file.name != "train.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match="it has no train rows; choose a data set that has some."):
        benchmark.main(["--dataset", str(tmp_path)])
