"""Mean and standard deviation of the figures of runs that differ only in their seed.

python -m metrics.spread RUN RUN [RUN ...]
"""

import argparse
import json
import statistics
from pathlib import Path

from processing.errors import UserError, run_command

FIGURES = ("exact_match", "f1")


def spread(runs: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and sample standard deviation of each Exact Match and F1 that all runs have, without those of baselines.

    Args:
        runs: the content of `all_results.json` of two or more runs.
    """
    names = [
        name
        for name in runs[0]
        if name.endswith(FIGURES) and "majority" not in name and all(name in run for run in runs)
    ]
    columns = {name: [run[name] for run in runs] for name in names}
    return {name: (statistics.mean(values), statistics.stdev(values)) for name, values in columns.items()}


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: a folder has no figures, or there is only one run.
    """
    parser = argparse.ArgumentParser(
        "python -m metrics.spread", description="Prints mean and standard deviation over runs."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="--output_dir of a run")
    folders = parser.parse_args(argv).runs
    if len(folders) < 2:
        raise UserError(f"{folders[0]}: one run has no spread; give two or more.")
    runs = []
    for folder in folders:
        file = folder / "all_results.json"
        if not file.is_file():
            raise UserError(f"{file}: there is no such file; give the --output_dir of a run that ended.")
        runs.append(json.loads(file.read_text(encoding="utf-8")))
    for name, (mean, deviation) in spread(runs).items():
        values = ", ".join(f"{run[name]:.2f}" for run in runs)
        print(f"{name:30} {mean:6.2f} ± {deviation:.2f}  ({values})")


if __name__ == "__main__":
    run_command(main)
