"""Lists the public functions that no test runs, from a coverage report.

python -m tests.support.untested coverage.json
"""

import json
import sys
from pathlib import Path


def untested(report: dict) -> list[str]:
    """`file: function` of each function and method without a leading underscore of which no line was run."""
    return [
        f"{file}: {name}"
        for file, entry in report["files"].items()
        for name, function in entry["functions"].items()
        if name and not any(part.startswith("_") for part in name.split("."))
        if name.rpartition(".")[0] not in entry["functions"]  # a function inside another is its matter
        if function["summary"]["num_statements"] and not function["summary"]["covered_lines"]
    ]


if __name__ == "__main__":
    found = untested(json.loads(Path(sys.argv[1]).read_text()))
    print("\n".join(found) or "Every public function is run by a test.")
    sys.exit(bool(found))
