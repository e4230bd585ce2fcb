"""Steps of a case for a terminal: every measured time beside the floor of its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arvbench.reports.cases import case_names, measured
from arvbench.reports.numbers import EN_DASH, count_cell, shorten, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.reports.tables.rich_table import titled_table
from arvbench.reports.tables.roofline import SCOPES, floor_cell, percent_cell, rounded_cell
from arvbench.results.launches import merge_launches
from arvbench.results.roofline import Floor, scope_works, total
from arvbench.results.schema import Measured, Record, StepPlan
from arvbench.results.statistics import NS_PER_MS, find_timing, nanoseconds

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_CASES = 4
"""Cases whose steps are printed; the report has all."""
MOST_ROWS = 12
"""Rows of steps of one case; where there are more steps, neighbours share a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """Steps that follow each other, or a whole scope."""

    label: str
    name: str
    time_ns: float
    floor: Floor
    launches: int
    """Planned, 0 where the plan does not say."""

    @property
    def share(self) -> float | None:
        return self.floor.ns / self.time_ns if self.time_ns > 0 else None


_COLUMNS: tuple[Column[_Row], ...] = (
    Column("Step", cell=lambda row: text_cell(row.label)),
    Column("Kind", cell=lambda row: text_cell(row.name)),
    Column("ms", numeric=True, cell=lambda row: rounded_cell(row.time_ns / NS_PER_MS)),
    Column("floor ms", numeric=True, cell=lambda row: floor_cell(row.floor)),
    Column("of time %", numeric=True, cell=lambda row: percent_cell(row.share)),
    Column("bound by", cell=lambda row: text_cell(row.floor.bound)),
    Column("launches", numeric=True, cell=lambda row: _count(row.launches)),
)


def _count(number: int) -> Cell:
    return count_cell(number) if number else NOTHING


def step_floors(records: Sequence[Record], *, width: int = 80) -> RenderableType:
    """Draw a table for each of the first cases that have floors, and say how many more there are."""
    from rich.console import Group
    from rich.text import Text

    records = merge_launches(records)
    names = case_names(records)
    tables = [(names[record.record_id], _table(record, outcome)) for record, outcome in measured(records)]
    tables = [(name, table) for name, table in tables if table]
    parts: list[RenderableType] = []
    for name, table in tables[:MOST_CASES]:
        title = shorten(f"Steps and floors: {name}", width)
        parts += [Text(), *titled_table(title, table, width, naming=1)]
    if more := len(tables[MOST_CASES:]):
        parts.append(Text(f"steps and floors of {more} more case{'s' if more > 1 else ''}: in the report", style="dim"))
    return Group(*parts)


def _table(record: Record, outcome: Measured) -> Table:
    works, plan = scope_works(record, outcome), outcome.setup.plan
    times = {scope: nanoseconds(t).value for scope in works if (t := find_timing(outcome, scope)) is not None}
    steps = [step for step in plan if f"step[{step.index}]" in times]
    size = -(-len(steps) // MOST_ROWS) or 1
    groups = [steps[start : start + size] for start in range(0, len(steps), size)]
    rows = [_of_steps(group, [(times[s], works[s].floor) for s in _scopes(group)]) for group in groups]
    for scope in SCOPES:
        if scope in times:
            launches = 0 if scope == "decode" else sum(step.launches for step in plan)
            floor = works[scope].floor
            rows.append(_Row(label=scope, name="", time_ns=times[scope], floor=floor, launches=launches))
    return make_table("Steps and floors", _COLUMNS, rows)


def _scopes(steps: Sequence[StepPlan]) -> list[str]:
    return [f"step[{step.index}]" for step in steps]


def _of_steps(steps: Sequence[StepPlan], found: Sequence[tuple[float, Floor]]) -> _Row:
    first, last = steps[0], steps[-1]
    floor = total(floor for _, floor in found)
    assert floor is not None
    return _Row(
        label=str(first.index) if first is last else f"{first.index}{EN_DASH}{last.index}",
        name=first.name if first.name == last.name else f"{first.name} to {last.name}",
        time_ns=sum(time_ns for time_ns, _ in found),
        floor=floor,
        launches=sum(step.launches for step in steps),
    )
