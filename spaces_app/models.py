"""The models that the Streamlit app asks: their names, loaded once for all visitors, and what their cards say."""

import gc
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from processing.errors import UserError, describe_error
from spaces_app.content import DEFAULT_COMPARED, DEFAULT_MODEL

if TYPE_CHECKING:
    from modeling.predictor import Predictor  # the page is painted before torch is loaded

RETRY_SECONDS = 30  # after which a model that could not be loaded is tried again
CARD_FIELDS = ("license", "base_model", "datasets", "language")


def model_names() -> list[str]:
    """The models that answer: one, or two to compare. By default they are the demos that have been trained."""
    model, compared = os.environ.get("MODEL_ID"), os.environ.get("COMPARE_MODEL_ID")
    if not model and not compared and (Path(DEFAULT_COMPARED) / "adapter_config.json").is_file():
        compared = DEFAULT_COMPARED
    return [model or DEFAULT_MODEL, *([compared] if compared else [])]


class Loading:
    """The models that the app asks, loaded once for all visitors, by a thread of its own.

    Attributes:
        began: when it began, as `time.monotonic` counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._models: dict[str, Predictor] | None = None
        self._error: UserError | None = None
        self.began = 0.0

    def start(self) -> None:
        """Begins, unless it has begun; anew where the last attempt failed a while ago."""
        with self._lock:
            failed = self._error is not None and time.monotonic() > self.began + RETRY_SECONDS
            if self._thread is None or failed:
                self._error, self.began = None, time.monotonic()
                self._thread = threading.Thread(target=self._load, daemon=True)
                self._thread.start()

    def models(self) -> "dict[str, Predictor] | None":
        """The models by their names, None while they are loaded.

        Raises:
            UserError: one can't be loaded.
        """
        self.start()
        if self._error is not None:
            raise UserError(str(self._error))
        return self._models

    def _load(self) -> None:
        from modeling.predictor import Predictor

        dtype = os.environ.get("MODEL_DTYPE") or None
        try:
            models = {name: Predictor.from_pretrained(name, dtype=dtype) for name in model_names()}
            # Streamlit looks for garbage after each run of the script, and all threads wait. Among the half a million
            # objects of models and their packages that would take longer than the run.
            gc.collect()
            gc.freeze()
            self._models = models
            print(f"Loaded {', '.join(models)} in {time.monotonic() - self.began:.0f} s.", flush=True)
        except UserError as error:
            self._error = error
        except Exception as error:  # a visitor would wait for ever
            self._error = UserError(describe_error(error))
            raise


LOADING = Loading()  # of this process


@st.cache_data(show_spinner=False, max_entries=4)
def load_card(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Metadata and figures of a model's card, None where it has none."""
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HTTPError

    try:
        card = ModelCard.load(Path(name) / "README.md" if Path(name).is_dir() else name)
    except (OSError, ValueError, HTTPError):
        return None
    metadata = card.data.to_dict()
    figures = [
        {
            "Figure": result.metric_name or result.metric_type,
            "Data set": result.dataset_name,
            "Split": result.dataset_split,
            "Value": result.metric_value,
        }
        for result in card.data.eval_results or []
    ]
    return {field: metadata.get(field) for field in CARD_FIELDS}, figures
