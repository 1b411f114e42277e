"""The Hub's check of a README.md: its YAML front matter, refused with the Hub's kind of messages."""

import json
import re
from typing import Any

import yaml

LISTS = ("base_model", "datasets", "language", "models", "preload_from_hub", "tags")


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
    errors: list[str] = []

    def check(holder: Any, key: str, where: str = "", pattern: str = ".+", required: bool = True) -> None:
        """A string, or a list of strings where the Hub takes both, that the pattern matches."""
        value = holder.get(key) if isinstance(holder, dict) else None
        if value is None:
            if required:
                errors.append(f'"{where}{key}" is required')
            return
        many = isinstance(value, list) and key in LISTS
        for one in value if many else [value]:
            if not isinstance(one, str) or not re.fullmatch(pattern, one):
                errors.append(f'"{where}{key}" with value {json.dumps(one, default=str)} is not valid')

    check(card, "license", pattern=r"[a-z0-9.\-]+", required=kind == "model")
    check(card, "base_model", pattern=r"[\w.\-]+/[\w.\-]+", required=False)
    check(card, "datasets", pattern=r"[\w.\-]+(/[\w.\-]+)?", required=False)
    check(card, "pipeline_tag", pattern=r"[a-z0-9\-]+", required=False)
    for key in ("tags", "language"):
        check(card, key, required=False)
    if kind == "space":
        colors = "red|yellow|green|blue|indigo|purple|pink|gray"
        check(card, "sdk", pattern="gradio|docker|static")
        for key in ("models", "preload_from_hub"):
            check(card, key, pattern=r"[\w.\-]+/[\w.\-]+", required=False)
        for key in ("app_file", "sdk_version", "python_version"):
            check(card, key, required=False)
        check(card, "colorFrom", pattern=colors, required=False)
        check(card, "colorTo", pattern=colors, required=False)
        check(card, "short_description", pattern=".{1,60}", required=False)

    def items(holder: Any, key: str, where: str = "") -> list[tuple[Any, str]]:
        """The items of a list with the place of each."""
        value = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(value, list) or not value:
            errors.append(f'"{where}{key}" must be an array')
            return []
        return [(item, f"{where}{key}[{number}].") for number, item in enumerate(value)]

    for model, at_model in items(card, "model-index") if "model-index" in card else []:
        check(model, "name", at_model)
        for result, at_result in items(model, "results", at_model):
            parts = result if isinstance(result, dict) else {}
            check(parts.get("task"), "type", f"{at_result}task.")
            check(parts.get("dataset"), "name", f"{at_result}dataset.")
            check(parts.get("dataset"), "type", f"{at_result}dataset.")
            for metric, at_metric in items(parts, "metrics", at_result):
                check(metric, "type", at_metric)
                if not isinstance(metric, dict) or metric.get("value") is None:
                    errors.append(f'"{at_metric}value" is required')
    return errors, []
