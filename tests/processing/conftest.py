"""Data sets that tests of `processing` write and read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image


def rows_of(dataset: datasets.DatasetDict) -> list[dict[str, Any]]:
    """The rows of all splits."""
    return [row for split in dataset.values() for row in split]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes a JSON table of good rows over distinct images, changed as the test asks."""

    def write(*changes: dict[str, Any], count: int = 12, name: str = "rows.json") -> Path:
        rows = []
        for i in range(count):
            Image.new("RGB", (40, 32), (i * 5, 20, 90)).save(tmp_path / f"{i}.png")
            rows.append({"image": f"{i}.png", "question": f"What is {i % 3}?", "answer": "lung", "question_id": i})
        for row, change in zip(rows, changes, strict=False):
            row |= change
        (tmp_path / name).write_text(json.dumps(rows))
        return tmp_path / name

    return write
