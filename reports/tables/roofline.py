"""Floors beside measured times: what the schedule costs at the ceilings that were measured with the case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from arvbench.reports.cases import arithmetic, group_by, hardware, measured
from arvbench.reports.names import case_cells, short_names
from arvbench.reports.numbers import EN_DASH, count_cell, number_cell, plain, significant, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.ceilings import Ceilings
from arvbench.results.roofline import Floor, ScopeWork, scope_works
from arvbench.results.schema import Measured, Record
from arvbench.results.statistics import NS_PER_MS, nanoseconds, timings_by_scope

GIGA = 1e9
SCOPES = ("tokens", "decode", "images")
_MOST_NAMED = 4
_WHY = "the record holds no ceilings of its machine: an earlier version wrote it, or there was no room for the buffers"


class ScopeFloor(NamedTuple):
    """A row: the floor of a scope beside its time."""

    record: Record
    outcome: Measured
    work: ScopeWork
    time_ns: float

    @property
    def flops_per_s(self) -> float | None:
        """Achieved rate."""
        return self.work.flops * GIGA / self.time_ns if self.time_ns > 0 else None

    @property
    def share_of_products(self) -> float | None:
        """Time of the matrix products alone at their ceiling, over time."""
        return self.work.compute_ns / self.time_ns if self.time_ns > 0 else None

    @property
    def share(self) -> float | None:
        """Floor over time, 0..1, or above 1 where a ceiling was measured too low."""
        return self.work.floor.ns / self.time_ns if self.time_ns > 0 else None


def scope_floors(records: Sequence[Record], *, steps: bool = True) -> dict[str, list[ScopeFloor]]:
    """Map the ids of records with ceilings to the floors of their timed scopes, of single `steps` only where asked."""
    floors = dict[str, list[ScopeFloor]]()
    for record, outcome in measured(records):
        timings = timings_by_scope(outcome)
        own = [
            ScopeFloor(record, outcome, work, nanoseconds(timings[scope]).value)
            for scope, work in scope_works(record, outcome, steps=steps).items()
            if scope in timings
        ]
        if own:
            floors[record.record_id] = own
    return floors


def floor_table(records: Sequence[Record]) -> Table:
    """Floors of the scopes tokens, decode and images, and their shares of the time: one row for every case."""
    cells = case_cells(records)
    columns: list[Column[_Scopes]] = [
        Column("Case", cell=lambda row: cells[row["images"].record.record_id]),
        Column("Work", "GFLOP", numeric=True, cell=lambda row: number_cell(row["images"].work.flops / GIGA)),
        Column("Traffic", "MB", numeric=True, cell=lambda row: number_cell(row["images"].work.bytes_moved / 1e6)),
        *(column for scope in SCOPES for column in _scope_columns(scope)),
        Column(
            "Products alone of time", "%", numeric=True, cell=lambda row: percent_cell(row["images"].share_of_products)
        ),
    ]
    found = [{row.work.scope: row for row in own} for own in scope_floors(records, steps=False).values()]
    whole = [own for own in found if all(scope in own for scope in SCOPES)]
    return make_table("Floors of a call, and their share of its time", columns, whole)


_Scopes = dict[str, ScopeFloor]
"""A row: the floors of one case by scope."""


def _scope_columns(scope: str) -> list[Column[_Scopes]]:
    return [
        Column(f"Floor: {scope}", "ms", numeric=True, cell=lambda row: floor_cell(row[scope].work.floor)),
        Column("Of time", "%", numeric=True, note=scope, cell=lambda row: percent_cell(row[scope].share)),
        Column("Bound by", note=scope, cell=lambda row: text_cell(row[scope].work.floor.bound)),
    ]


def floor_cell(floor: Floor | None) -> Cell:
    """Make a cell of a floor in ms."""
    return NOTHING if floor is None else rounded_cell(floor.ns / NS_PER_MS)


def percent_cell(share: float | None) -> Cell:
    """Make a cell of a share, in percent."""
    return NOTHING if share is None else rounded_cell(100 * share)


def rounded_cell(value: float) -> Cell:
    """Make a cell that sorts by what it shows: a page of many steps needs no further digits."""
    text = significant(value)
    return Cell(text, "", float(text))


class _MachineCeilings(NamedTuple):
    """A row: what was measured with the cases of one machine and data type, in one way."""

    where: str
    how: str
    cases: tuple[Ceilings, ...]


def ceilings_table(records: Sequence[Record]) -> Table:
    """Ceilings as they were measured with the cases, a row for every machine and data type: median and range."""
    found = [(record, outcome.ceilings) for record, outcome in measured(records) if outcome.ceilings is not None]
    groups = group_by(found, lambda case: (f"{hardware(case[0])} · {arithmetic(case[0])}", plain(case[1].method)))
    rows = [_MachineCeilings(where, how, tuple(own for _, own in cases)) for (where, how), cases in groups.items()]
    sizes = sorted({series.work for _, own in found for series in own.copies})
    dtypes = list(dict.fromkeys(dtype for _, own in found for dtype in own.matmul))
    columns: list[Column[_MachineCeilings]] = [
        Column("Machine", cell=lambda row: text_cell(row.where)),
        Column("Cases", numeric=True, cell=lambda row: count_cell(len(row.cases))),
        *(_rates_column("Copy", "GB/s", f"{significant(size / 1e6)} MB moved", _copy_rate(size)) for size in sizes),
        *(_rates_column("Products", "GFLOP/s", dtype, _product_rate(dtype)) for dtype in dtypes),
        _rates_column("Tiny kernel", "us", "", lambda own: None if own.launch_ns is None else own.launch_ns / 1e3),
        Column("How", prose=True, cell=lambda row: text_cell(row.how)),
    ]
    return make_table("Ceilings, measured right after each case: median and range over the cases", columns, rows)


_Rate = Callable[[Ceilings], float | None]


def _copy_rate(size: int) -> _Rate:
    return lambda own: next((series.per_second / GIGA for series in own.copies if series.work == size), None)


def _product_rate(dtype: str) -> _Rate:
    return lambda own: series.per_second / GIGA if (series := own.matmul.get(dtype)) else None


def _rates_column(label: str, unit: str, note: str, rate: _Rate) -> Column[_MachineCeilings]:
    def cell(row: _MachineCeilings) -> Cell:
        rates = [value for own in row.cases if (value := rate(own)) is not None]
        if not rates:
            return NOTHING
        low, high = significant(min(rates)), significant(max(rates))
        return Cell(
            text=significant(median(rates)), detail="" if low == high else f"{low} {EN_DASH} {high}", sort=median(rates)
        )

    return Column(label, unit, numeric=True, note=note, cell=cell)


def no_floors_table(records: Sequence[Record]) -> Table:
    """One row for the measured cases without floors, with the reason; no row when all have floors."""
    names = short_names(records)
    missing = [names[record.record_id] for record, outcome in measured(records) if outcome.ceilings is None]
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    columns: list[Column[str]] = [
        Column("Cases without floors", cell=text_cell),
        Column("Why", prose=True, cell=lambda _: text_cell(_WHY)),
    ]
    return make_table("No floors", columns, [f"{', '.join(missing[:_MOST_NAMED])}{more}"] if missing else [])
