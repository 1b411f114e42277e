"""The command line: audits a data set, and a model's predictions for it.

python -m metrics.audit "$SLAKE_DIR"
python -m metrics.audit rows.csv --predictions out/predictions_test.jsonl --fail_on leaks,contradictions
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrics.audit.report import FAILURES, count_failures, make_report
from metrics.data_options import add_data_options, data_options
from metrics.intervals import interval_text
from processing.command_line import CommandParser
from processing.errors import DISK_FULL, UserError, run_command
from processing.storage import write_atomically

PROG = "python -m metrics.audit"
SHOWN_ROWS = 3  # of those that can't be used
EXAMPLES = """examples:
  {prog} path/to/SLAKE
      writes audit/audit.html and audit/audit.json
  {prog} rows.csv --fail_on leaks,contradictions
      ends with status 3 if the data has one of these faults
  {prog} rows.csv --predictions out/predictions_test.jsonl --split test
      also says what the figures of these predictions are worth
"""


class AuditFailed(UserError):
    """The audit found what `--fail_on` names."""

    exit_status = 3


def main(argv: list[str], prog: str = PROG) -> None:
    """The command line.

    Raises:
        UserError: the data set or the predictions can't be used.
        AuditFailed: something was found that `--fail_on` names; the report is written all the same.
    """
    options = make_parser(prog).parse(argv)
    from metrics.audit.charts import make_charts
    from metrics.audit.page import make_page
    from processing.data import checked_rows  # brings torch

    fail_on = _failures(options.fail_on)
    folder = options.output_dir
    with checked_rows(
        options.data,
        allow_no_answer=options.allow_no_answer,
        **data_options(options),
    ) as checked:
        name = Path(options.data).resolve().name if Path(options.data).exists() else options.data
        report, table = make_report(
            checked, name, split_seed=options.split_seed, predictions=options.predictions, split=options.split
        )
    charts = make_charts(report)
    files: dict[str, str | bytes] = dict(charts)
    files["audit.json"] = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    files["audit.html"] = make_page(report, table, charts, images=not options.no_images)
    try:
        for file, data in files.items():
            write_atomically(folder / file, data)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(
            f"--output_dir {folder}: it can't be written ({error.strerror}); choose another folder."
        ) from None
    counts = count_failures(report)
    print(_summary(report, counts))
    print(f"{folder / 'audit.html'} and audit.json have the rest.")
    found = [f"{counts[name]:,} {FAILURES[name]}" for name in fail_on if counts[name]]
    if found:
        raise AuditFailed(f"--fail_on {','.join(fail_on)}: found {' and '.join(found)}; see {folder / 'audit.html'}.")


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog,
        description="Finds out what is wrong with a data set, and what figures on it are worth.",
        epilog=EXAMPLES.format(prog=prog),
    )
    parser.add_argument("data", help="folder, table or Hub id of a data set; phantom generates one")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="a model's answers to these questions")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="split they are for")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("audit"), metavar="FOLDER", help="where the page and the figures go"
    )
    parser.add_argument(
        "--fail_on",
        action="append",
        default=[],
        metavar="FAULTS",
        help=f"end with status 3 if any are found; one or more of {', '.join(FAILURES)}, with commas between them",
    )
    parser.add_argument("--no_images", action="store_true", help="leave images out of the page, for publishing it")
    add_data_options(parser)
    parser.add_argument("--allow_no_answer", action="store_true", help="accept rows with an empty answer")
    parser.add_argument("--split_seed", type=int, default=0, metavar="N", help="seed for splits, if the data has none")
    return parser


def _failures(given: list[str]) -> list[str]:
    names = [name.strip() for text in given for name in text.split(",")]
    for name in names:
        if name not in FAILURES:
            raise UserError(f"--fail_on {name}: there is no such finding; choose of {', '.join(FAILURES)}.")
    return list(dict.fromkeys(names))


def _summary(report: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """The most telling figures, a line each."""
    data = report["data"]
    lines = [
        f"{data['name']}: {data['usable_rows']:,} of {data['rows']:,} rows on {data['images']:,} different images; "
        f"splits: {data['splits']}"
    ]
    for name, count in counts.items():
        lines.append(f"{FAILURES[name]}: {count:,}")
        if name == "bad_rows":
            first = report["bad_rows"]["first"][:SHOWN_ROWS]
            lines += [f"  {row['where']}: {row['problem']} {row['detail']}" for row in first]
    lines.append(f"rows that repeat another's image, question and answer: {report['duplicates']['rows']:,}")
    for split, seen in report["seen_in_training"].items():
        told = "; ".join(f"{kind} {count['images']:,} ({count['rows']:,} rows)" for kind, count in seen.items())
        lines.append(f"{split} images in training: {told}")
    for split, unseen in report["unseen_answers"].items():
        lines.append(f"{split} rows with an answer that is never in training: {unseen['rows']:,} of {unseen['of']:,}")
    for split, entries in report["question_alone"].items():
        for entry in entries:
            figure = entry["figures"]["all"]
            lines.append(f"{split} EM, {entry['name']}: {interval_text(figure['exact_match'])}, n = {figure['n']:,}")
    for part in (report["predictions"] or {"figures": []})["figures"]:
        figure = part["figures"][0]
        text = "" if figure["percent"] is None else interval_text([figure[key] for key in ("percent", "low", "high")])
        lines.append(f"predictions, {figure['protocol']} of {part['of']}: {text}, n = {figure['n']:,}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
