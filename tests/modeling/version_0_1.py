"""What version 0.1 saved and answered (saved_by_0_1/README.md)."""

import json
from pathlib import Path

SAVED = Path(__file__).parent / "saved_by_0_1"
ANSWERS = json.loads((SAVED / "answers.json").read_text(encoding="utf-8"))
CACHE_NAMES = ANSWERS["cache"]
