"""The Gradio app in the process of a test, and what is sent to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest

from modeling.predictor import Predictor
from spaces_app import gradio_app


@contextmanager
def serve_gradio(predictor: Predictor, uploads: Path, **environment: str) -> Iterator[gr.Blocks]:
    """The page, served on loopback.

    Args:
        predictor: the model that is asked.
        uploads: folder of what visitors send.
        environment: more variables.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment | {"GRADIO_TEMP_DIR": str(uploads)}).items():
            patch.setenv(name, value)
        page, _ = gradio_app.launch(predictor, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        yield page
        page.close()


def uploaded_file(url: str, file: Path, name: str) -> dict[str, Any]:
    """Uploads a file; how calls name it.

    Args:
        name: of the file, as the visitor has it.
    """
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": (name, file.read_bytes())}).json()[0]
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
