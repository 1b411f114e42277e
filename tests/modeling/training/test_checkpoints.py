"""modeling.training.checkpoints: what a kill or a full disk leaves, and how a run resumes from it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from modeling.training.checkpoints import checkpoints, last_checkpoint, trained_rows, why_incomplete
from processing.errors import UserError
from tests.modeling.training.steps import SIX_STEPS

pytestmark = pytest.mark.xdist_group("checkpoints")  # one worker trains


@pytest.fixture(scope="module")
def finished(phantoms, tmp_path_factory) -> Path:
    """A run with three checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    run(phantoms, folder)
    return folder


def run(dataset: Path, folder: Path, *flags: str) -> None:
    train.main([*SIX_STEPS, "--dataset", str(dataset), "--output_dir", str(folder), *flags])


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_resumes_from_its_last_whole_checkpoint(folder):
    assert [one.name for one in checkpoints(folder)] == ["checkpoint-6", "checkpoint-4", "checkpoint-2"]
    assert [why_incomplete(one) for one in checkpoints(folder)] == [None] * 3
    assert last_checkpoint(folder) == str(folder / "checkpoint-6")
    assert last_checkpoint(folder / "nowhere") is None


def test_a_run_is_not_resumed_on_other_training_rows(folder, phantoms, tmp_path):
    """It would be evaluated on rows that it has learned."""
    shutil.copytree(phantoms, tmp_path / "data")
    rows = json.loads((phantoms / "train.json").read_text())
    (tmp_path / "data" / "train.json").write_text(json.dumps(rows[::-1]))
    assert trained_rows(folder) == trained_rows(folder / "checkpoint-2") is not None
    with pytest.raises(UserError, match=r"checkpoint-6 is from another run \(its training rows differ\)"):
        run(tmp_path / "data", folder)
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["TrainedRows"]  # as older versions wrote it
    (folder / "checkpoint-6" / "trainer_state.json").write_text(json.dumps(state))
    run(tmp_path / "data", folder)


def test_a_run_is_not_resumed_with_settings_that_its_checkpoint_overrules(folder, phantoms):
    """Its optimizer would keep the old ones, and the model card would name the new ones."""
    flags = ["--learning_rate", "0.5", "--seed", "7", "--max_steps", "9"]
    sentence = (
        r"checkpoint-6 is from a run with other settings \(learning_rate .*, now 0.5; seed 42, now 7\); give the same "
        "again, choose another --output_dir, or remove the old checkpoints.$"
    )
    with pytest.raises(UserError, match=sentence):
        run(phantoms, folder, *flags)


def test_a_finished_run_takes_no_further_step(folder, phantoms):
    """Though its last step was in the middle of an epoch."""
    before = load_file(folder / "model.safetensors")
    shutil.rmtree(folder / "checkpoint-6")
    run(phantoms, folder, "--max_steps", "4")
    state = json.loads((folder / "trainer_state.json").read_text())
    assert (state["global_step"], state["max_steps"]) == (4, 4)
    assert [one.name for one in checkpoints(folder)] == ["checkpoint-4", "checkpoint-2"]
    weights, saved = load_file(folder / "model.safetensors"), load_file(folder / "checkpoint-4" / "model.safetensors")
    assert all(bool((weights[name] == saved[name]).all()) for name in saved)
    assert any(bool((weights[name] != before[name]).any()) for name in saved)


def test_evaluation_on_other_splits_than_those_of_the_training_warns(folder, phantoms, tmp_path, caplog):
    flags = ["--dataset", str(phantoms), "--model_name_or_path", str(folder), "--do_train", "False"]
    train.main([*flags, "--output_dir", str(tmp_path / "same")])
    assert "was trained on" not in caplog.text
    train.main([*flags, "--output_dir", str(tmp_path / "other"), "--split_by", "image"])
    assert f"The training rows here are not those that {folder} was trained on" in caplog.text


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
def test_checkpoint_that_a_kill_cut_off_is_skipped(folder, caplog, name, share):
    file = folder / "checkpoint-6" / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert last_checkpoint(folder) == str(folder / "checkpoint-4")
    assert f"checkpoint-6 is incomplete ({name} is" in caplog.text
    assert "so it is skipped" in caplog.text


def test_checkpoint_of_the_model_alone_is_not_resumed_from(folder, phantoms, caplog, tmp_path):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):  # as --save_only_model True
        (folder / "checkpoint-6" / name).unlink()
    assert last_checkpoint(folder) == str(folder / "checkpoint-4")
    assert "checkpoint-6 holds the model alone (--save_only_model True), so it is skipped." in caplog.text
    with pytest.raises(UserError, match="it holds the model alone .*; start from its weights by --model_name_or_path"):
        run(phantoms, tmp_path / "new", "--resume_from_checkpoint", str(folder / "checkpoint-6"))


def test_run_resumes_from_before_incomplete_checkpoints_to_the_same_end(folder, finished, phantoms):
    (folder / "checkpoint-6" / "trainer_state.json").unlink()
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(b"PK\x03\x04 and then the power went")
    run(phantoms, folder)
    assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()

    def losses(folder: Path) -> list[tuple[int, float]]:
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]

    assert losses(folder) == losses(finished)
    assert len(losses(folder)) == 6


def test_incomplete_checkpoint_that_is_asked_for_is_refused(folder, phantoms):
    (folder / "checkpoint-6" / "rng_state.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint-6: it is incomplete \(rng_state.pth is incomplete\); choose"):
        run(phantoms, folder, "--resume_from_checkpoint", str(folder / "checkpoint-6"))


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("content", ["evil", "text"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"])
def test_state_that_no_run_has_written_is_one_sentence(folder, phantoms, tmp_path, caplog, name, content):
    last = folder / "checkpoint-6"
    torch.save(Evil(tmp_path / "ran") if content == "evil" else "text", last / name)
    reason = f"{name} holds something else than a state of training"
    with pytest.raises(UserError) as error:
        run(phantoms, tmp_path / "new", "--resume_from_checkpoint", str(last))
    said = f"--resume_from_checkpoint {last}: it can't be trusted ({reason}); choose another."
    assert str(error.value) == said
    assert last_checkpoint(folder) == str(folder / "checkpoint-4")
    assert f"checkpoint-6 can't be trusted ({reason}), so it is skipped." in caplog.text
    assert not (tmp_path / "ran").exists()


def test_index_of_a_checkpoint_that_leads_out_of_it_is_refused(folder, phantoms):
    last = folder / "checkpoint-6"
    content = {"metadata": {}, "weight_map": {"x": "../checkpoint-4/model.safetensors"}}
    (last / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"model.safetensors.index.json names '../checkpoint-4/model.safetensors', wh"):
        run(phantoms, folder, "--resume_from_checkpoint", str(last))


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
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # a failed test may still hold its files


@pytest.mark.parametrize("room", [0.3, 0.9, 1.3, 1.7, 2.6])
def test_full_disk_ends_in_one_sentence_with_the_last_checkpoint_whole(finished, phantoms, small_disk, room):
    """Room for that many checkpoints, of the three that the run writes."""
    size = sum(file.stat().st_size for file in (finished / "checkpoint-2").iterdir()) / 1024
    output = small_disk(int(size * room)) / "run"
    whole = int(room) * 2
    after = rf"resumes from .*checkpoint-{whole}" if whole else "starts anew, as there is no checkpoint yet"
    with pytest.raises(UserError, match=f"the disk is full; free some space, and the same command {after}"):
        run(phantoms, output, "--report_to", "none")
    assert [one.name for one in checkpoints(output)] == [f"checkpoint-{n}" for n in range(whole, 0, -2)]
    assert [why_incomplete(one) for one in checkpoints(output)] == [None] * int(room)
    small_disk(64 * 1024)
    run(phantoms, output, "--report_to", "none")
    assert (output / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
