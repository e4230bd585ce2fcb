"""Markdown of a check for a pull request: at most 60 lines, the worst first.

All regressions are in it, several on a line when they would not fit otherwise; other numbers are counted, and listed
while there is room. The first line is hidden: by it a later comment finds the one to replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from arvbench.reports.markdown import escape
from arvbench.reports.numbers import plain, shorten
from arvbench.reports.tables.changes import (
    change_text,
    counts_text,
    interval_text,
    looks_text,
    percent,
    sides_text,
)
from arvbench.results.verdict import Change, Check, Verdict, worst_first

MARKER: Final = "<!-- arvbench-check -->"
MOST_LINES: Final = 60
_ROWS = 40
"""Lines for numbers; the others are for what stands around them."""
_REASON_LENGTH = 160
_SENTENCES_LENGTH = 2_000
_HEADER = (
    "| Verdict | Case | Number | Change | 95 % interval | Smallest detectable | Reason |",
    "| --- | --- | --- | ---: | ---: | ---: | --- |",
)


def check_markdown(check: Check) -> str:
    """Write a check as Markdown of at most `MOST_LINES` lines."""
    told = [change for change in worst_first(check.changes) if change.verdict is not Verdict.PASS]
    regressions = [change for change in told if change.verdict is Verdict.REGRESSION]
    if len(regressions) > _ROWS:
        left = [change for change in told if change.verdict is not Verdict.REGRESSION]
        numbers = [*_packed(regressions), *_left_out(left)]
    else:
        numbers = [*_HEADER, *map(_row, told[:_ROWS]), *_left_out(told[_ROWS:])] if told else []
    sentences = [
        f"- {name}: {escape(shorten('; '.join(texts), _SENTENCES_LENGTH))}"
        for name, texts in (("unusable", check.unusable), ("machine", check.machine))
        if texts
    ]
    parts = [
        [MARKER],
        [f"## arvbench check: {check.verdict.value}"],
        [
            f"{counts_text(check.changes)}. {escape(sides_text(check))}. Suite {escape(shorten(check.suite, 80))} on "
            f"{escape(shorten(check.hardware, 120))}, run {escape(shorten(check.run_id, 40))}."
        ],
        [looks_text(check)],
        numbers,
        sentences,
        ["The same check again:"],
        [f"    {plain(check.command)}"],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if any(lines)) + "\n"


def _row(change: Change) -> str:
    smallest = "" if change.smallest_detectable is None else percent(change.smallest_detectable, sign="")
    cells = (
        f"**{change.verdict.value}**" if change.verdict is Verdict.REGRESSION else change.verdict.value,
        escape(shorten(change.case, 100)),
        escape(shorten(change.number, 60)),
        change_text(change.ratio),
        escape(interval_text(change.interval)),
        smallest,
        escape(shorten(change.reason, _REASON_LENGTH)),
    )
    return f"| {' | '.join(cells)} |"


def _packed(regressions: Sequence[Change]) -> list[str]:
    """List regressions by case, on `_ROWS` lines at most: none is cut."""
    by_case: dict[str, list[str]] = {}
    for change in regressions:
        number = f"{escape(shorten(change.number, 60))} {change_text(change.ratio)}"
        by_case.setdefault(change.case, []).append(number)
    cases = [f"**{escape(shorten(case, 100))}**: {', '.join(numbers)}" for case, numbers in by_case.items()]
    on_a_line = -(-len(cases) // _ROWS)
    return [f"- {'; '.join(cases[at : at + on_a_line])}" for at in range(0, len(cases), on_a_line)]


def _left_out(changes: Sequence[Change]) -> list[str]:
    return ["", f"Not listed here: {counts_text(changes)}; verdict.json has all."] if changes else []
