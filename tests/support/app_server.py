"""Runs an app as its users do, in a process of its own on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.support import warm

ROOT = Path(__file__).parents[2]
SECONDS = 120  # to start, on a busy machine
PATIENCE = 60_000  # ms that a page may take for each step, on a busy machine


def chromium() -> str | None:
    """The browser that is installed."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextmanager
def serve(
    log: Path, *arguments: str, folder: Path = ROOT, health: str = "/", fresh: bool = False, **environment: str
) -> Iterator[str]:
    """The address of `python ARGUMENTS`, where PORT stands for its port, once it answers.

    Args:
        log: takes what it prints.
        arguments: of Python.
        folder: it runs in.
        health: path of the page that answers.
        fresh: whether it imports its packages itself (see `tests.support.warm`).
        environment: more variables.
    """
    port = str(free_port())
    command = [argument.replace("PORT", port) for argument in arguments]
    variables = os.environ | {name: value.replace("PORT", port) for name, value in environment.items()}
    url = f"http://127.0.0.1:{port}"
    with (_fresh if fresh else _warm)(command, folder, variables, log) as has_ended:
        end = time.monotonic() + SECONDS
        while not _answers(url + health):
            if has_ended() or time.monotonic() > end:
                raise RuntimeError(f"{command} did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield url


@contextmanager
def _fresh(command: list[str], folder: Path, variables: dict[str, str], log: Path) -> Iterator[Callable[[], bool]]:
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=variables, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield lambda: process.poll() is not None
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _warm(command: list[str], folder: Path, variables: dict[str, str], log: Path) -> Iterator[Callable[[], bool]]:
    process = warm.start(*command, log=log, folder=folder, environment=variables)
    try:
        yield lambda: not process.is_alive()
    finally:
        process.terminate()
        process.join()


def serve_app(log: Path, *models: str) -> AbstractContextManager[str]:
    """The address of the Streamlit app, asking one model or comparing two, behind one proxy."""
    command = ("-m", "streamlit", "run", "spaces_app/app.py", "--server.port", "PORT", "--server.headless", "true")
    environment = dict(zip(("MODEL_ID", "COMPARE_MODEL_ID"), models, strict=False)) | {"TRUSTED_PROXIES": "1"}
    return serve(log, *command, "--server.address", "127.0.0.1", health="/_stcore/health", **environment)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
