"""The Hub's check of a README.md: its YAML front matter, refused with the Hub's kind of messages."""

import json
import re
from typing import Any

import yaml

LISTS = ("base_model", "datasets", "language", "models", "preload_from_hub", "tags")
REPO_ID = r"[\w.\-]+/[\w.\-]+"
COLORS = "red|yellow|green|blue|indigo|purple|pink|gray"


def read_card(text: str) -> dict[str, Any] | None:
    """The YAML front matter of a README.md, None where it has none, ValueError where it can't be read."""
    match = re.match(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:\r?\n|$)", text, re.DOTALL)
    try:
        card = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise ValueError(f"the YAML metadata can't be read: {error}") from error
    if card is not None and not isinstance(card, dict):
        raise ValueError("the YAML metadata must be an object")
    return card


def check_card(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a README.md; stricter than the Hub in one point: the card of a model needs a license."""
    try:
        card = read_card(text)
    except ValueError as error:
        return [str(error)], []
    if card is None:
        return [], ["empty or missing yaml metadata in repo card"]
    checks = _Checks()
    checks.string(card, "license", pattern=r"[a-z0-9.\-]+", required=kind == "model")
    checks.string(card, "base_model", pattern=REPO_ID, required=False)
    checks.string(card, "datasets", pattern=r"[\w.\-]+(/[\w.\-]+)?", required=False)
    checks.string(card, "pipeline_tag", pattern=r"[a-z0-9\-]+", required=False)
    for key in ("tags", "language"):
        checks.string(card, key, required=False)
    if kind == "space":
        checks.space(card)
    if "model-index" in card:
        checks.model_index(card)
    return checks.errors, []


class _Checks:
    """Checks parts of a card and collects the errors."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def string(self, holder: Any, key: str, where: str = "", pattern: str = ".+", required: bool = True) -> None:
        """A string, or a list of strings where the Hub takes both, that the pattern matches."""
        value = holder.get(key) if isinstance(holder, dict) else None
        if value is None:
            if required:
                self.errors.append(f'"{where}{key}" is required')
            return
        many = isinstance(value, list) and key in LISTS
        for one in value if many else [value]:
            if not isinstance(one, str) or not re.fullmatch(pattern, one):
                self.errors.append(f'"{where}{key}" with value {json.dumps(one, default=str)} is not valid')

    def items(self, holder: Any, key: str, where: str = "") -> list[tuple[Any, str]]:
        """The items of a list with the place of each."""
        value = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(value, list) or not value:
            self.errors.append(f'"{where}{key}" must be an array')
            return []
        return [(item, f"{where}{key}[{number}].") for number, item in enumerate(value)]

    def space(self, card: dict[str, Any]) -> None:
        """What configures a Space."""
        self.string(card, "sdk", pattern="gradio|docker|static")
        for key in ("models", "preload_from_hub"):
            self.string(card, key, pattern=REPO_ID, required=False)
        for key in ("app_file", "sdk_version", "python_version"):
            self.string(card, key, required=False)
        for key in ("colorFrom", "colorTo"):
            self.string(card, key, pattern=COLORS, required=False)
        self.string(card, "short_description", pattern=".{1,60}", required=False)

    def model_index(self, card: dict[str, Any]) -> None:
        """The figures of a model."""
        for model, at_model in self.items(card, "model-index"):
            self.string(model, "name", at_model)
            for result, at_result in self.items(model, "results", at_model):
                parts = result if isinstance(result, dict) else {}
                self.string(parts.get("task"), "type", f"{at_result}task.")
                self.string(parts.get("dataset"), "name", f"{at_result}dataset.")
                self.string(parts.get("dataset"), "type", f"{at_result}dataset.")
                for metric, at_metric in self.items(parts, "metrics", at_result):
                    self.string(metric, "type", at_metric)
                    if not isinstance(metric, dict) or metric.get("value") is None:
                        self.errors.append(f'"{at_metric}value" is required')
