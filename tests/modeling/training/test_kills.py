"""Runs in processes of their own that are killed or asked to stop."""

import pytest

from modeling.training.checkpoints import last_checkpoint
from tests.modeling.training.steps import SIX_STEPS
from tests.support import warm


@pytest.mark.parametrize("kind", ["vilt", "blip2"])
def test_run_that_is_killed_at_random_ends_as_one_left_alone(kind):
    """More often, by SIGTERM, and the starter too: docs/reliability.md."""
    done = warm.run("-m", "tests.support.kill_training", kind, "--kills", "3", "--epochs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same") == 3


STOPPED_IN_ITS_THIRD_STEP = """
import os, signal, train
from modeling.vilt.trainer import ViltTrainer

class StoppedTrainer(ViltTrainer):
    steps = 0

    def training_step(self, *args, **options):
        self.steps += 1
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(*args, **options)

import modeling.vilt.trainer
modeling.vilt.trainer.ViltTrainer = StoppedTrainer
train.run_command(train.main)
"""


def test_sigterm_ends_with_one_sentence_and_a_checkpoint(phantoms, tmp_path):
    flags = [*SIX_STEPS, "--save_steps", "100", "--dataset", str(phantoms), "--output_dir", str(tmp_path)]
    done = warm.run("-c", STOPPED_IN_ITS_THIRD_STEP, *flags)
    assert done.returncode == 143, done.stderr
    message = "error: Stopped by SIGTERM after step 3 of 6; the same command resumes from there."
    assert done.stderr.strip().splitlines()[-1] == message
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert "Traceback" not in done.stderr
