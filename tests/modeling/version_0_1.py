"""What version 0.1 saved and answered (saved_by_0_1/README.md)."""

import json
from pathlib import Path

import pytest
import transformers

SAVED = Path(__file__).parent / "saved_by_0_1"
ANSWERS = json.loads((SAVED / "answers.json").read_text(encoding="utf-8"))
CACHE_NAMES = ANSWERS["cache"]
TRANSFORMERS = json.loads((SAVED / "vilt" / "config.json").read_text())["transformers_version"]

needs_its_transformers = pytest.mark.skipif(
    transformers.__version__ != TRANSFORMERS,
    reason=f"the folder of kept features is named after what transformers {TRANSFORMERS} says of an image processor",
)
