"""Why rows can't be used, and how people are told."""

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from processing.sources.rows import Row  # sources name problems too

NAMED_ROWS = 3  # rows named for each kind of problem


class Problem(NamedTuple):
    """Why a row can't be used.

    Attributes:
        kind: the same words for all rows that have this problem.
        detail: what is wrong with this row.
    """

    kind: str
    detail: str


def describe_problems(bad: "list[Row]", total: int) -> str:
    """A summary for people: each kind of problem, its count and the first rows that have it.

    Args:
        bad: rows with `problem` and `detail`.
        total: number of rows, good ones included.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in bad:
        groups[row["problem"]].append(row)
    lines = [f"{len(bad):,} of {total:,} rows can't be used:"]
    for problem, rows in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        named = "; ".join(f"{row['where']} ({row['detail']})" for row in rows[:NAMED_ROWS])
        if len(rows) > NAMED_ROWS:
            named += "; ..."
        lines.append(f"  {len(rows):,} x {problem}: {named}")
    return "\n".join(lines)
