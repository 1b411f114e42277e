"""Why rows can't be used, and how people are told."""

from collections import Counter, defaultdict
from collections.abc import Iterable
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


def describe_problems(bad: "Iterable[Row]", total: int) -> str:
    """A summary for people: each kind of problem, its count and the first rows that have it.

    Args:
        bad: rows with `problem` and `detail`.
        total: number of rows, good ones included.
    """
    counts: Counter[str] = Counter()
    named: dict[str, list[str]] = defaultdict(list)
    for row in bad:
        problem = row["problem"]
        counts[problem] += 1
        if counts[problem] <= NAMED_ROWS:
            named[problem].append(f"{row['where']} ({row['detail']})")
    lines = [f"{counts.total():,} of {total:,} rows can't be used:"]
    for problem, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        rows = "; ".join(named[problem]) + ("; ..." if count > NAMED_ROWS else "")
        lines.append(f"  {count:,} x {problem}: {rows}")
    return "\n".join(lines)
