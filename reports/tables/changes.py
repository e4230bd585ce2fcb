"""The changes of a check as a table and in words, the worst first: for pages, terminals and pull requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from arvbench.reports.numbers import MIB, plain, shorten, significant, text_cell
from arvbench.reports.table import MISSING, NOTHING, Cell, Column, Table, Tone, make_table
from arvbench.results.moments import in_utc
from arvbench.results.statistics import NS_PER_MS
from arvbench.results.verdict import SEVERITY, Change, Check, Verdict, worst_first

_TONES: Final[dict[Verdict, Tone]] = {
    Verdict.REGRESSION: "bad",
    Verdict.UNUSABLE: "bad",
    Verdict.MACHINE: "warn",
    Verdict.INCONCLUSIVE: "warn",
    Verdict.IMPROVEMENT: "good",
}
_UNITS: Final = {"ns": ("ms", NS_PER_MS), "bytes": ("MiB", MIB)}
_LARGE_RATIO = 10.0
"""Ratio from which a change is written as a factor."""


def changes_table(check: Check) -> Table:
    """Make the table of all changes for a page."""
    columns: list[Column[Change]] = [
        Column("Case", cell=lambda change: text_cell(change.case)),
        Column("Number", cell=lambda change: text_cell(change.number)),
        verdict_column(),
        Column("Change", cell=lambda c: _change_cell(c, detail=interval_text(c.interval)), numeric=True),
        smallest_column("Smallest detectable"),
        Column("Base", cell=lambda change: _side_cell(change, change.base), numeric=True),
        Column("Head", cell=lambda change: _side_cell(change, change.head), numeric=True),
        Column("Launches", cell=lambda c: Cell(text=f"{len(c.base)} + {len(c.head)}", sort=float(len(c.head)))),
        Column("Slow launches", cell=_slow_cell),
        Column("Cause", cell=lambda change: text_cell(change.cause and change.cause.value)),
        Column("Reason", cell=lambda change: text_cell(change.reason), prose=True),
    ]
    return make_table(f"Changes, head over base: {sides_text(check)}", columns, worst_first(check.changes))


def whole_table(check: Check) -> Table:
    """Make the table of what concerns the check as a whole."""
    begin, end = in_utc(check.started), in_utc(check.finished)
    facts = [
        ("Verdict", Cell(text=check.verdict.value, tone=_TONES.get(check.verdict, "good"))),
        ("Numbers", text_cell(counts_text(check.changes))),
        *(("Looks", text_cell(looks_text(check))) for _ in check.looks[1:2]),
        ("Run", text_cell(f"{check.run_id}, suite {check.suite}, {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")),
        ("On", text_cell(check.hardware)),
        *(("Unusable", text_cell(sentence)) for sentence in check.unusable),
        *(("Machine", text_cell(sentence)) for sentence in check.machine),
        ("Again", text_cell(check.command)),
    ]
    columns: list[Column[tuple[str, Cell]]] = [
        Column("Check", cell=lambda fact: Cell(text=fact[0])),
        Column("Value", cell=lambda fact: fact[1], prose=True),
    ]
    return make_table(f"Check {sides_text(check)}", columns, facts)


class NarrowTable(NamedTuple):
    """Table of changes for a terminal."""

    shared: str
    """Words that all cases share."""
    table: Table
    naming: int
    """Number of its first columns that name a row."""


def narrow_table(changes: Sequence[Change], width: int) -> NarrowTable:
    """Make a table for a terminal of `width` columns; three eighths of them are for names."""
    shared, cases, numbers = short_names([(change.case, change.number) for change in changes], width)
    columns: list[Column[Change]] = [
        Column("Case", cell=lambda change: Cell(text=cases[change.case])),
        Column("Number", cell=lambda change: Cell(text=numbers[change.number])),
        verdict_column(),
        Column("Change", cell=_change_cell, numeric=True),
        smallest_column("MDE"),
        Column("Interval", note="95 %", cell=lambda change: text_cell(interval_text(change.interval)), numeric=True),
        Column("Cause", cell=lambda change: text_cell(change.cause and change.cause.value)),
    ]
    one_case = len(cases) == 1
    return NarrowTable(shared, make_table("Changes", columns[one_case:], changes), 1 if one_case else 2)


def verdict_column() -> Column[Change]:
    return Column(
        "Verdict",
        cell=lambda change: Cell(
            text=change.verdict.value,
            sort=float(SEVERITY.index(change.verdict)),
            tone=_TONES.get(change.verdict, "plain"),
        ),
    )


def smallest_column(label: str) -> Column[Change]:
    """Smallest change that the launches would have shown."""
    return Column(
        label,
        cell=lambda change: (
            NOTHING
            if change.smallest_detectable is None
            else Cell(text=percent(change.smallest_detectable, sign=""), sort=change.smallest_detectable)
        ),
        numeric=True,
    )


def change_text(ratio: float | None) -> str:
    """Write a ratio as a change in percent, from 10 on as a factor."""
    if ratio is None or not math.isfinite(ratio):
        return MISSING
    if ratio == 1:
        return "0 %"
    return f"x{significant(ratio)}" if ratio >= _LARGE_RATIO else percent(ratio - 1)


def interval_text(interval: tuple[float, float] | None) -> str:
    """Write an interval of a ratio as changes in percent; "" for none."""
    if interval is None:
        return ""
    return f"[{', '.join(change_text(end).removesuffix(' %') for end in interval)}]"


def percent(share: float, *, sign: str = "+") -> str:
    """Write a share in percent with two or three digits."""
    digits = 2 if abs(share) < 0.001 and share else 1
    return f"{100 * share:{sign}.{digits}f} %"


def sides_text(check: Check) -> str:
    """Name both sides, base first, with the commits behind them."""
    sides = []
    for side in (check.base, check.head):
        commit = plain(side.commit)[:12] if side.commit else ""
        dirty = " with local changes" if side.dirty else ""
        name = shorten(side.name, 60)
        sides.append(f"{name} ({commit}{dirty})" if commit and commit not in name else f"{name}{dirty}")
    return f"{sides[0]} → {sides[1]}"


def looks_text(check: Check) -> str:
    """Say how often a check looked at its launches, and at which levels; "" for one look."""
    looks = [f"{look.launches} launches per side at a level of {100 * look.level:.2g} %" for look in check.looks]
    return f"{len(looks)} looks: {', then '.join(looks)}" if len(looks) > 1 else ""


def counts_text(changes: Sequence[Change]) -> str:
    """Count the numbers by verdict, the worst first."""
    counts = Counter(change.verdict for change in changes)
    nouns = {Verdict.REGRESSION, Verdict.IMPROVEMENT}
    words = [
        f"{counts[verdict]} {verdict.value}{'s' if verdict in nouns and counts[verdict] > 1 else ''}"
        for verdict in SEVERITY
        if counts[verdict]
    ]
    return ", ".join(words) or "no numbers"


def _change_cell(change: Change, detail: str = "") -> Cell:
    if change.ratio is None:
        return NOTHING
    return Cell(text=change_text(change.ratio), detail=detail, sort=change.ratio)


def _side_cell(change: Change, values: Sequence[float]) -> Cell:
    """Median of the launches, with its unit: rows of one table have different ones."""
    if not values:
        return NOTHING
    unit, divisor = _UNITS.get(change.unit, (plain(change.unit), 1.0))
    value = median(values) / divisor
    return Cell(text=f"{significant(value)} {unit}".rstrip(), sort=value)


def _slow_cell(change: Change) -> Cell:
    if change.slow_share is None:
        return NOTHING
    base, head = change.slow_share
    return Cell(text=f"{base:.0%} → {head:.0%}", sort=head)


def short_names(rows: Sequence[tuple[str, str]], width: int) -> tuple[str, dict[str, str], dict[str, str]]:
    """Shorten the names of rows (case, number) to three eighths of `width`.

    Returns the words that all cases share, and the short names of cases and of numbers, all of them distinct.
    """
    cases, numbers = list(dict.fromkeys(case for case, _ in rows)), list(dict.fromkeys(number for _, number in rows))
    shared, own = _split_names([plain(case) for case in cases])
    plain_numbers, room = [plain(number) for number in numbers], width * 3 // 8
    for_numbers = min(max(map(len, plain_numbers), default=0), max(room // 2, room - max(map(len, own), default=0)))
    return (
        shared,
        dict(zip(cases, [name or MISSING for name in _distinct(own, room - for_numbers)], strict=True)),
        dict(zip(numbers, _distinct(plain_numbers, for_numbers), strict=True)),
    )


def _split_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the words that all names share, and the words of each that are its own."""
    words = [name.split() for name in names]
    shared = [word for word in words[0] if all(word in other for other in words)] if words else []
    return " ".join(shared), [" ".join(word for word in own if word not in shared) for own in words]


def _distinct(texts: Sequence[str], length: int) -> list[str]:
    """Cut texts to about `length` characters; those that would become equal are numbered."""
    full_of: dict[str, str] = {}
    short_of: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        short, number = shorten(text, max(length, 4)), 2
        while full_of.setdefault(short, text) != text:
            short, number = f"{shorten(text, max(length - 3, 4))}~{number}", number + 1
        short_of[text] = short
    return [short_of[text] for text in texts]
