"""The rows that README and documentation print as an example of one's own data."""

import json
import re
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from processing.data import load_vqa_dataset


def load_example_rows(page: str, folder: Path, **more: Any) -> datasets.DatasetDict:
    """Loads six copies of the one JSON block of a page, each with images of its own.

    Args:
        page: its text.
        folder: where rows and images go.
        more: columns of copy number i, `{}` in them standing for the number.
    """
    [block] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    rows = [
        {**row, "image": f"{i}{row['image']}", **{name: value.format(i) for name, value in more.items()}}
        for i in range(6)
        for row in json.loads(block)
    ]
    for i, row in enumerate(rows):
        file = folder / row["image"]
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (i // 2 * 40, 0, 0)).save(file)
    (folder / "rows.json").write_text(json.dumps(rows))
    return load_vqa_dataset(str(folder / "rows.json"))
