"""Runs the notebook with the Python that runs this: `python -m tests.support.notebook` runs it with its own settings
and keeps the outputs in the file.

Nothing is written outside of the folder that it runs in and the project's cache.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from processing.storage import cache_dir
from tests.support.app_server import ROOT

NOTEBOOK = ROOT / "notebooks" / "medical_vqa.ipynb"
SETTING = "MEDICAL_VQA_"  # what the names of its settings begin with in the environment
SECONDS = 3600  # for a cell, on a busy machine
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONGEST = 60  # lines of what is kept of a cell
PROGRESS_BAR = re.compile(r".*\d+%\|.*\|.*\n?")


@contextmanager
def kernel(folder: Path, settings: Mapping[str, str]) -> Iterator[NotebookClient]:
    """A client that runs cells of the notebook in a folder.

    Args:
        folder: where the notebook runs; the files of the kernel are below `.kernel` there.
        settings: environment variables.
    """
    own = folder / ".kernel"
    own.mkdir()
    # without the kernels that the user has installed, python3 is ipykernel in the Python that runs this
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        connection_file=str(own / "connection.json"),
    )
    client = NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4),
        km=manager,
        timeout=SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with client.setup_kernel(env={**os.environ, "PYTHONPATH": paths, "IPYTHONDIR": str(own), **settings}):
        yield client


def run_all(client: NotebookClient) -> dict[str, Any]:
    """Runs every cell, from top to bottom.

    Returns:
        The cells by their ids.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    for number, cell in enumerate(client.nb.cells):
        client.execute_cell(cell, number)
    return {cell.id: cell for cell in client.nb.cells}


def printed(cell: Any) -> str:
    """What a cell printed, as a terminal shows it: without codes, and without progress bars."""
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    lines = TERMINAL_CODES.sub("", text).replace("\r\n", "\n").split("\n")
    lines = [line.rpartition("\r")[2] for line in lines]  # what overwrites its line
    return "\n".join(line for line in lines if not PROGRESS_BAR.fullmatch(line))


def keep_outputs(cells: Mapping[str, Any]) -> None:
    """Makes the outputs of a run such that the file stays small and names nothing of this machine."""
    for cell in cells.values():
        if cell.cell_type != "code":
            continue
        cell.metadata = {}
        text = _shortened(printed(cell).replace(str(cache_dir()), "~/.cache/medical-vqa"))
        shown = [output for output in cell.outputs if output.output_type != "stream"]
        for output in shown:
            output.metadata = {}
        stream = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text.strip() else []
        cell.outputs = stream + shown


def _shortened(text: str) -> str:
    lines = text.splitlines(keepends=True)
    if len(lines) <= LONGEST:
        return text
    return "".join([*lines[: LONGEST // 2], "...\n", *lines[-LONGEST // 2 :]])


def main() -> None:
    """Runs the notebook in a temporary folder and writes it with its outputs."""
    with tempfile.TemporaryDirectory() as folder, kernel(Path(folder), {}) as client:
        keep_outputs(run_all(client))
    nbformat.write(client.nb, NOTEBOOK)


if __name__ == "__main__":
    main()
