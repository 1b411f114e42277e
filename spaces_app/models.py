"""The models that the Streamlit app asks: their names, loaded once for all visitors, and what their cards say."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from spaces_app.content import DEFAULT_COMPARED, DEFAULT_MODEL

if TYPE_CHECKING:
    from modeling.predictor import Predictor  # the page is painted before torch is loaded

CARD_FIELDS = ("license", "base_model", "datasets", "language")


def model_names() -> list[str]:
    """The models that answer: one, or two to compare. By default they are the demos that have been trained."""
    model, compared = os.environ.get("MODEL_ID"), os.environ.get("COMPARE_MODEL_ID")
    if not model and not compared and (Path(DEFAULT_COMPARED) / "adapter_config.json").is_file():
        compared = DEFAULT_COMPARED
    return [model or DEFAULT_MODEL, *([compared] if compared else [])]


def short_name(name: str) -> str:
    """A model's name without the folder it lies in."""
    return Path(name).name if Path(name).is_dir() else name


@st.cache_resource(show_spinner=False)
def load_model(name: str) -> "Predictor":
    """Loads a model once for all visitors.

    Raises:
        UserError: it can't be loaded.
    """
    from modeling.predictor import Predictor

    return Predictor.from_pretrained(name, dtype=os.environ.get("MODEL_DTYPE") or None)


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
