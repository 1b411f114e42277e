"""Runs an app as its users do, in a process of its own on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

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
def serve(log: Path, *arguments: str, folder: Path = ROOT, health: str = "/", **environment: str) -> Iterator[str]:
    """The address of `python ARGUMENTS`, where PORT stands for its port, once it answers."""
    port = str(free_port())
    command = [sys.executable, *(argument.replace("PORT", port) for argument in arguments)]
    variables = {name: value.replace("PORT", port) for name, value in environment.items()}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **variables}, stdout=stream, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + SECONDS
        while not _answers(url + health):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command} did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def serve_app(log: Path, *models: str) -> AbstractContextManager[str]:
    """The address of the Streamlit app, asking one model or comparing two; X-Forwarded-For says who a visitor is."""
    command = ("-m", "streamlit", "run", "spaces_app/app.py", "--server.port", "PORT", "--server.headless", "true")
    environment = dict(zip(("MODEL_ID", "COMPARE_MODEL_ID"), models, strict=False)) | {"TRUSTED_PROXIES": "1"}
    return serve(log, *command, "--server.address", "127.0.0.1", health="/_stcore/health", **environment)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
