"""modeling.training.checkpoints: what a kill, a preemption or a full disk leaves, and how a run resumes from it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train
from modeling.training.checkpoints import checkpoints, last_checkpoint, why_incomplete
from processing.errors import UserError

ROOT = Path(__file__).parent.parent


FLAGS = ["--model_name_or_path", "scratch:tiny", "--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2"]
FLAGS += ["--save_total_limit", "9", "--per_device_train_batch_size", "8", "--logging_steps", "1"]
FLAGS += ["--eval_strategy", "no", "--disable_tqdm", "True"]


@pytest.fixture(scope="module")
def finished(phantoms, tmp_path_factory):
    """A run with three checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    train.main([*FLAGS, "--dataset", str(phantoms), "--output_dir", str(folder)])
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_last_whole_checkpoint_is_the_one_to_go_on_from(folder):
    assert [one.name for one in checkpoints(folder)] == ["checkpoint-6", "checkpoint-4", "checkpoint-2"]
    assert [why_incomplete(one) for one in checkpoints(folder)] == [None] * 3
    assert last_checkpoint(folder) == str(folder / "checkpoint-6")
    assert last_checkpoint(folder / "nowhere") is None


FILES = [
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_checkpoint_that_a_kill_cut_off_is_passed_over(folder, caplog, name, share):
    file = folder / "checkpoint-6" / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert last_checkpoint(folder) == str(folder / "checkpoint-4")
    assert f"checkpoint-6 was not finished ({name} is" in caplog.text
    assert "passing it over" in caplog.text


def test_run_goes_on_from_before_a_torn_checkpoint_to_the_same_end(folder, finished, phantoms):
    (folder / "checkpoint-6" / "trainer_state.json").unlink()
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(b"PK\x03\x04 and then the power went")
    train.main([*FLAGS, "--dataset", str(phantoms), "--output_dir", str(folder)])
    assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()

    def losses(run):
        history = json.loads((run / "trainer_state.json").read_text())["log_history"]
        return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]

    assert losses(folder) == losses(finished)
    assert len(losses(folder)) == 6


def test_torn_checkpoint_that_is_asked_for_is_refused(folder, phantoms):
    (folder / "checkpoint-6" / "rng_state.pth").write_bytes(b"")
    asked = ["--resume_from_checkpoint", str(folder / "checkpoint-6")]
    with pytest.raises(UserError, match=r"checkpoint-6: it was not finished \(rng_state.pth is incomplete\); choose"):
        train.main([*FLAGS, *asked, "--dataset", str(phantoms), "--output_dir", str(folder)])


@pytest.mark.parametrize("kind", ["vilt", "blip2"])
def test_run_that_is_killed_at_random_ends_as_one_left_alone(kind):
    """More often, by SIGTERM, and the starter too: docs/reliability.md."""
    command = [sys.executable, "-m", "tests.support.kill_training", kind, "--kills", "3", "--epochs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same") == 3


def test_sigterm_ends_with_one_sentence_and_a_checkpoint(phantoms, tmp_path):
    """The process sends the signal to itself at the start of its third step."""
    script = (
        "import os, signal, sys, train\n"
        "from modeling.vilt import ViltTrainer\n"
        "steps = []\n"
        "def step(self, *args, plain=ViltTrainer.training_step, **options):\n"
        "    steps.append(1)\n"
        "    if len(steps) == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return plain(self, *args, **options)\n"
        "ViltTrainer.training_step = step\n"
        "train.run_command(train.main)\n"
    )
    options = [*FLAGS, "--save_steps", "100", "--dataset", str(phantoms), "--output_dir", str(tmp_path)]
    command = [sys.executable, "-c", script, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    told = "error: Stopped by SIGTERM after step 3 of 6; the same command goes on from there."
    assert done.stderr.strip().splitlines()[-1] == told
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A function that gives a file system of its own so many kilobytes of room."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> subprocess.CompletedProcess:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    if shutil.which("mount") is None or (done := mount("-o", "size=64m")).returncode:
        pytest.skip(f"A full disk needs a tmpfs, which only root may mount: {done.stderr.strip()}")

    def resize(kilobytes: int) -> Path:
        done = mount("-o", f"remount,size={kilobytes}k")
        assert done.returncode == 0, done.stderr
        return place

    yield resize
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("room", [0.3, 0.9, 1.3, 1.7, 2.6])
def test_full_disk_ends_in_one_sentence_with_the_last_checkpoint_whole(finished, phantoms, small_disk, room, capfd):
    """Room for that many checkpoints, of the three that the run writes."""
    size = sum(file.stat().st_size for file in (finished / "checkpoint-2").iterdir()) / 1024
    output = small_disk(int(size * room)) / "run"
    command = [*FLAGS, "--report_to", "none", "--dataset", str(phantoms), "--output_dir", str(output)]
    whole = int(room) * 2
    after = rf"goes on from .*checkpoint-{whole}" if whole else "starts anew, as there is no checkpoint yet"
    with pytest.raises(UserError, match=f"no room left to write; make some, and the same command {after}"):
        train.main(command)
    assert [one.name for one in checkpoints(output)] == [f"checkpoint-{n}" for n in range(whole, 0, -2)]
    assert [why_incomplete(one) for one in checkpoints(output)] == [None] * int(room)
    small_disk(64 * 1024)
    train.main(command)
    assert (output / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
