"""Runs Python as a process of its own that need not import torch and the other packages: a fork of one that has.

Only packages are imported beforehand, so the project's own modules are imported afresh as in any new process. What
reads the environment while it is imported (the Hub's client reads `HF_HOME` and `HF_HUB_OFFLINE`) has read that of the
tests; a test that sets it needs a real process.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from unittest import mock

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "transformers.trainer",
        "transformers.models.vilt.modeling_vilt",
        "transformers.models.blip_2.modeling_blip_2",
        "peft",
        "accelerate.commands.launch",
        "datasets",
        "evaluate",
        "scipy.stats",
        "matplotlib.pyplot",
        "pydicom",
        "streamlit.web.cli",
        "gradio",
    ]
)


def start(
    *arguments: str,
    log: Path,
    errors: Path | None = None,
    read: Path | None = None,
    folder: Path = ROOT,
    environment: Mapping[str, str],
) -> ForkServerProcess:
    """Starts what `python ARGUMENTS` would run.

    Args:
        arguments: `-m MODULE ...`, `-c CODE ...` or `FILE ...`.
        log: takes what it prints.
        errors: takes its standard error, which otherwise goes to `log`.
        read: its standard input, empty by default.
        folder: it runs in.
        environment: all variables.
    """
    process = CONTEXT.Process(target=_become, args=(arguments, log, errors, read, folder, dict(environment)))
    # A child first imports the main module of its parent, and Streamlit's AppTest leaves an app's page as that.
    with mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        process.start()
    return process


def run(*arguments: str, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs what `python ARGUMENTS` would run to its end, as `subprocess.run` does.

    Args:
        arguments: as of `start`.
        typed: its standard input.
        variables: of the environment, beside those of this process.
    """
    with tempfile.TemporaryDirectory() as place:
        log, errors, read = (Path(place) / name for name in ("out", "err", "in"))
        read.write_text(typed)
        process = start(*arguments, log=log, errors=errors, read=read, environment=os.environ | variables)
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, log.read_text(), errors.read_text())


def _become(
    arguments: tuple[str, ...],
    log: Path,
    errors: Path | None,
    read: Path | None,
    folder: Path,
    environment: dict[str, str],
) -> None:
    with log.open("a") as out, (errors or log).open("a") as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
    if read is not None:
        sys.stdin = read.open()
        os.dup2(sys.stdin.fileno(), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    kind, *words = arguments
    if kind == "-m":
        sys.path[0], sys.argv = str(folder), words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[1:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), vars(main))
    else:
        sys.path[0], sys.argv = str((folder / kind).parent), list(arguments)
        runpy.run_path(kind, run_name="__main__")
