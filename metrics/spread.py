"""Mean and standard deviation of the figures of runs that differ only in their seed.

python -m metrics.spread RUN RUN [RUN ...]
"""

import json
import statistics
from pathlib import Path

from processing.command_line import CommandParser
from processing.errors import UserError, run_command

PROG = "python -m metrics.spread"
EXAMPLES = """example:
  {prog} output/train/seed-42 output/train/seed-43 output/train/seed-44
"""
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


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog,
        description="Prints the mean and standard deviation of figures over runs that differ only in their seed.",
        epilog=EXAMPLES.format(prog=prog),
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; give two or more")
    return parser


def main(argv: list[str], prog: str = PROG) -> None:
    """The command line.

    Raises:
        UserError: a folder has no figures, or there is only one run.
    """
    folders = make_parser(prog).parse(argv).runs
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
