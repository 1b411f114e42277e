"""processing.errors: how a command line reports what went wrong."""

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from processing.command_line import CommandParser
from processing.errors import UserError, describe_error, mask_tokens, run_command
from processing.images import ImageError
from tests.support import warm

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "aB3" * 12


def test_tokens_are_masked_and_nothing_else_is():
    text = f"(token={TOKEN}, api_org_{'x' * 30}) in hf_home/user_hf_models and chf_{'a' * 30}"
    assert mask_tokens(text) == f"(token=hf_***, api_org_***) in hf_home/user_hf_models and chf_{'a' * 30}"


def test_recipe_that_holds_a_token_and_cannot_be_read_is_reported_without_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"hub_token: {TOKEN}: oops\n")
    done = warm.run("train.py", str(recipe))
    assert done.returncode == 1
    assert "error: Recipe" in done.stderr
    assert "not valid YAML" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_what_is_logged_is_masked(monkeypatch, capsys):
    def log(argv: list[str]) -> None:
        logging.getLogger("modeling").warning("asking with %s", TOKEN)

    monkeypatch.setattr(logging.root, "handlers", [])
    run_command(log)
    assert capsys.readouterr().err == "asking with hf_***\n"


@pytest.mark.parametrize("library", ["httpx", "httpx2", "httpcore.connection", "urllib3.connectionpool", "filelock"])
def test_libraries_that_log_each_request_are_silent(monkeypatch, capsys, library):
    def log(argv: list[str]) -> None:
        logging.getLogger(library).info("GET https://huggingface.co")
        logging.getLogger(library).warning("slow")
        logging.getLogger("modeling").info("12 rows")

    monkeypatch.setattr(logging.root, "handlers", [])
    run_command(log, logging.DEBUG)
    assert capsys.readouterr().err == "slow\n12 rows\n"


LIBRARY = """
import logging, warnings
from processing.command_line import CommandParser
from processing.errors import run_command
def main(argv):
    print(argv)
    logging.getLogger("accelerate").info("details")
    logging.getLogger("transformers").warning("weights")
    logging.getLogger("modeling").warning("own")
    logging.getLogger("torch").warning("driver")
    warnings.warn("old name", FutureWarning)
    warnings.warn("the driver is\\ntoo old for hf_" + "a" * 30, UserWarning)
run_command(main)
"""


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_what_libraries_say_is_left_out_unless_it_is_asked_for(flag, monkeypatch):
    def written(*flags: str) -> tuple[str, str]:
        command = [sys.executable, "-c", LIBRARY, "x", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    out, err = written()
    assert out == "['x']\n"
    assert err == "own\ndriver\nwarning: the driver is too old for hf_***\n"
    out, err = written(flag)
    assert out == "['x']\n"
    assert all(f"{text}\n" in err for text in ("details", "weights", "own", "driver"))
    assert "FutureWarning: old name" in err
    monkeypatch.setenv("MEDICAL_VQA_VERBOSE", "1")  # in a process that such a command starts
    assert written()[1] == err


def test_help_tells_of_the_flag_that_shows_all(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        run_command(lambda argv: CommandParser("x").parse(argv))
    assert "-v, --verbose" in capsys.readouterr().out


def test_ctrl_c_is_one_sentence_and_the_status_that_shells_have(capsys):
    def stop(argv: list[str]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(stop)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nStopped by Ctrl-C.\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("row 3: no image; add one."), "error: row 3: no image; add one.\n"),
        (OSError(errno.ENOSPC, "full", "out/x"), "error: out/x: the disk is full; free some space and run the same"),
    ],
)
def test_what_a_user_can_fix_is_a_sentence_and_a_status(monkeypatch, capsys, error, message):
    def fail(argv: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(fail)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(message)


def test_other_errors_are_not_hidden():
    def fail(argv: list[str]) -> None:
        raise OSError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        run_command(fail)


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, _):
        raise ImageError("Cannot open 'a: b.png': it is empty (0 bytes); export or download it again.")


def test_an_error_in_a_worker_of_a_data_loader_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        run_command(lambda _: list(DataLoader(Broken(), num_workers=1)))
    expected = "error: Cannot open 'a: b.png': it is empty (0 bytes); export or download it again.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("height\nand  width"), "ValueError: height and width"),
        (MemoryError(), "MemoryError"),
        (KeyError("x" * 500), "KeyError: '" + "x" * 76 + "..."),
    ],
)
def test_an_error_is_described_in_one_short_line(error, expected):
    assert describe_error(error) == expected
