"""A history as tables: its change points, the worst first, and all of its series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from arvbench.reports.numbers import MIB, plain, significant, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, Tone, make_table
from arvbench.reports.tables.changes import change_text, percent, short_names
from arvbench.results.history import ChangePoint, History, NumberHistory
from arvbench.results.statistics import NS_PER_MS

SHORT: Final = 10
"""Digits of a commit in tables and figures."""
UNITS: Final = {"ns": ("ms", NS_PER_MS), "bytes": ("MiB", MIB)}


class Marked(NamedTuple):
    """A change point with its series, or a drift, which has no change point."""

    number: NumberHistory
    change: ChangePoint | None

    @property
    def ratio(self) -> float | None:
        """After over before."""
        return self.change.ratio if self.change else 1 + (self.number.drift or 0.0)

    @property
    def tone(self) -> Tone:
        return "plain" if self.ratio is None else "bad" if self.number.is_worse(self.ratio) else "good"

    @property
    def where(self) -> str:
        return plain(self.change.commit)[:SHORT] if self.change else "drift"

    @property
    def cause(self) -> str:
        return self.change.cause.value if self.change else ""


def marked_rows(history: History) -> list[Marked]:
    """Return change points and drifts, those for the worse first, the largest of them first."""
    rows = [Marked(number, change) for number, change in history.marked()]
    rows += [Marked(number, None) for number in history.numbers if number.drift is not None]
    return sorted(rows, key=_severity)


def _severity(row: Marked) -> tuple[bool, float, str, str]:
    ratio = row.ratio or float("inf")
    size = max(ratio, 1 / ratio)
    return row.tone != "bad", -size, row.number.case, row.number.number


def change_points_table(history: History) -> Table:
    """Make the table of all change points; machine and harness stand there where the history has several."""
    machines, harnesses = _places(history)
    columns: list[Column[Marked]] = [
        Column("Number", cell=lambda row: text_cell(f"{row.number.number} of {row.number.case}")),
        Column("Change", cell=_change_cell, numeric=True),
        Column("At commit", cell=lambda row: text_cell(row.where), code=True),
        Column("After", cell=lambda row: text_cell(row.change and row.change.after[:SHORT]), code=True),
        Column("Before", cell=lambda row: NOTHING if row.change is None else value_cell(row, row.change.before_value),
               numeric=True),
        Column("Since", cell=lambda row: NOTHING if row.change is None else value_cell(row, row.change.after_value),
               numeric=True),
        Column("p", cell=_p_cell, numeric=True),
        Column("Cause", cell=lambda row: text_cell(row.cause)),
        Column("Reason", cell=lambda row: text_cell(row.change and row.change.reason), prose=True),
        Column("Machine", cell=lambda row: text_cell(row.number.hardware if machines > 1 else "")),
        Column("Harness", cell=lambda row: text_cell(row.number.method if harnesses > 1 else ""), code=True),
    ]  # fmt: skip
    return make_table("Change points, the worst first", columns, marked_rows(history))


def series_tables(history: History) -> tuple[Table, ...]:
    """Make the tables of all series, one for each kind of number."""
    machines, harnesses = _places(history)
    columns: list[Column[NumberHistory]] = [
        Column("Number", cell=lambda number: text_cell(f"{number.number} of {number.case}")),
        Column("Commits", cell=lambda number: Cell(text=str(len(number.points)), sort=float(len(number.points))),
               numeric=True),
        Column("Newest", cell=lambda number: value_cell(Marked(number, None), number.points[-1].value), numeric=True),
        Column("Change points", cell=_count_cell, numeric=True),
        Column("First to newest", cell=lambda n: ratio_cell(n, _span(n)), numeric=True),
        Column("Since accepted", cell=lambda number: ratio_cell(number, number.since("accepted")), numeric=True),
        Column("Since release", cell=lambda number: ratio_cell(number, number.since("release")), numeric=True),
        Column("Machine", cell=lambda number: text_cell(number.hardware if machines > 1 else "")),
        Column("Harness", cell=lambda number: text_cell(number.method if harnesses > 1 else ""), code=True),
        Column("Scope", cell=lambda number: text_cell(number.basis), prose=True),
    ]  # fmt: skip
    groups = (("Times", ("time",)), ("Memory and cache", ("memory", "cache")), ("Quality", ("quality",)))
    tables = []
    for name, kinds in groups:
        rows = [number for number in history.numbers if number.kind in kinds]
        tables += [make_table(f"{name}: all {len(rows)} series", columns, rows)] if rows else []
    return tuple(tables)


def _places(history: History) -> tuple[int, int]:
    """Count machines and harnesses."""
    return len({one.hardware for one in history.numbers}), len({one.method for one in history.numbers})


def narrow_history_table(history: History, width: int) -> tuple[str, Table]:
    """Make the table of change points for a terminal; also return the words that all cases share."""
    rows = marked_rows(history)
    shared, cases, numbers = short_names([(row.number.case, row.number.number) for row in rows], width)
    columns: list[Column[Marked]] = [
        Column("Case", cell=lambda row: Cell(text=cases[row.number.case])),
        Column("Number", cell=lambda row: Cell(text=numbers[row.number.number])),
        Column("Change", cell=_change_cell, numeric=True),
        Column("At commit", cell=lambda row: text_cell(row.where)),
        Column("Cause", cell=lambda row: text_cell(row.cause)),
        Column("p", cell=_p_cell, numeric=True),
    ]
    return shared, make_table("Change points", columns[len(cases) == 1 :], rows)


def summary_text(history: History) -> str:
    """Say in one sentence how many change points there are, in how many series, and what chance would mark."""
    rows = marked_rows(history)
    worse = sum(row.tone == "bad" for row in rows)
    found = f"{len(rows)} change point{'s' if len(rows) != 1 else ''}" if rows else "no change point"
    more = f", {worse} of them for the worse" if rows else ""
    short = sum(not number.enough for number in history.numbers)
    few = f" {short} series have too few commits to tell a change from chance." if short else ""
    return (
        f"{len(history.commits)} commits, {len(history.numbers)} series: {found}{more}. Unchanged code gets a mark in "
        f"at most {percent(history.level, sign='')} of such histories.{few}"
    )


def value_cell(row: Marked, value: float) -> Cell:
    """Make a cell of a value with its unit: rows of one table have different ones."""
    unit, divisor = UNITS.get(row.number.unit, (plain(row.number.unit), 1.0))
    return Cell(text=f"{significant(value / divisor)} {unit}".rstrip(), sort=value / divisor)


def ratio_cell(number: NumberHistory, ratio: float | None) -> Cell:
    """Make a cell of a change; one of 3 % or more has the tone of its direction."""
    if ratio is None:
        return NOTHING
    tone: Tone = "plain" if abs(ratio - 1) < 0.03 else "bad" if number.is_worse(ratio) else "good"
    return Cell(text=change_text(ratio), sort=ratio, tone=tone)


def _span(number: NumberHistory) -> float | None:
    first = number.points[0].value
    return number.points[-1].value / first if first and len(number.points) > 1 else None


def _change_cell(row: Marked) -> Cell:
    return Cell(text=change_text(row.ratio), sort=row.ratio, tone=row.tone)


def _p_cell(row: Marked) -> Cell:
    if row.change is None or row.change.p is None:
        return Cell(text="exact", sort=0.0) if row.change else NOTHING
    return Cell(text=significant(row.change.p, 2), sort=row.change.p)


def _count_cell(number: NumberHistory) -> Cell:
    if number.drift is not None:
        return Cell(text="drift", sort=0.5, tone="warn")
    if not number.enough:
        return Cell(text="too few commits", sort=-1.0)
    count = len(number.change_points)
    return Cell(text=str(count), sort=float(count), tone="warn" if count else "plain")


def notices_of(history: History) -> Sequence[str]:
    """Return what a reader of the history must know, first of all how its commits are ordered."""
    return (f"commits are ordered {history.order}", *history.notices)
