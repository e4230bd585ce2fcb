"""Table of a check for a terminal, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arvbench.reports.numbers import plain, shorten
from arvbench.reports.tables.changes import counts_text, looks_text, narrow_table, sides_text
from arvbench.reports.tables.rich_table import titled_table
from arvbench.results.verdict import SEVERITY, Change, Check, Verdict, worst_first

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST_ROWS = 60
"""Rows beyond which numbers that pass are counted and not listed."""
_MOST_REASONS = 5
"""Lines of reasons for one verdict, but for regressions and what is unusable: `verdict.json` has them all."""
_REASON_LENGTH = 300
_WHOLE = (Verdict.REGRESSION, Verdict.UNUSABLE)
_MDE = "MDE: smallest change that these launches would show, with 95 % power"


def check_table(check: Check, *, width: int = 80) -> RenderableType:
    """Make a Rich table for a terminal of `width` columns, with reasons below.

    Everything that does not pass has a row. Names are plain text: Rich markup and control characters do nothing.
    """
    from rich.console import Group
    from rich.text import Text

    changes = worst_first(check.changes)
    bad = [change for change in changes if change.verdict is not Verdict.PASS]
    shown = changes[: max(len(bad), _MOST_ROWS)]
    shared, table, naming = narrow_table(shown, width)
    table_title = f"Changes: {shared}" if shared else "Changes"
    return Group(
        Text(check.verdict.value, style="bold"),
        Text(sides_text(check)),
        Text(counts_text(check.changes)),
        *([Text(looks)] if (looks := looks_text(check)) else []),
        Text(),
        *(titled_table(table_title, table, width, naming=naming) if shown else []),
        *([Text(f"and {len(changes) - len(shown)} more that pass", style="dim")] if len(changes) > len(shown) else []),
        *([Text(_MDE, style="dim")] if any(change.smallest_detectable is not None for change in shown) else []),
        *map(Text, [*map(plain, check.unusable), *map(plain, check.machine)]),
        *map(Text, reasons(bad)),
    )


def reasons(changes: Sequence[Change]) -> list[str]:
    """Say why numbers have their verdicts, one line for all that have one reason, the worst first.

    Many inconclusive numbers, say, have nearly one reason each: after a few the rest are counted.
    """
    groups: dict[tuple[Verdict, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.verdict, plain(change.reason)), []).append(change)
    lines: list[str] = []
    seen: Counter[Verdict] = Counter()
    left: Counter[Verdict] = Counter()
    for (verdict, reason), group in sorted(groups.items(), key=lambda item: SEVERITY.index(item[0][0])):
        seen[verdict] += 1
        if seen[verdict] > _MOST_REASONS and verdict not in _WHOLE:
            left[verdict] += len(group)
            continue
        first = f"{plain(group[0].case)} {plain(group[0].number)}"
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        lines.append(f"{verdict.value}: {first}{more}: {shorten(reason, _REASON_LENGTH)}")
    return lines + [
        f"{verdict.value}: {count} more; all reasons are in the verdict as JSON (--json)"
        for verdict, count in left.items()
    ]
