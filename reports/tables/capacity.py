"""Largest batch, fitted bytes per image and knee of throughput; and the batches that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from arvbench.reports.cases import measured
from arvbench.reports.names import case_column
from arvbench.reports.numbers import MIB, count_cell, mib_cell, number_cell, significant, text_cell
from arvbench.reports.remembered import remembered
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.capacity import Capacity, Line, Probe, Rate, best_of, knee_of
from arvbench.results.schema import Record

MOST_TRIED = 120
"""Rows of the table of tried batches: some eight searches."""


class _Searched(NamedTuple):
    """A row of the table."""

    record: Record
    capacity: Capacity
    line: Line | None
    knee: Rate | None
    best: Rate | None


class _Tried(NamedTuple):
    """A row of the table of tried batches."""

    record: Record
    probe: Probe


@remembered
def _searched(records: Sequence[Record]) -> list[_Searched]:
    searched = list[_Searched]()
    for record, outcome in measured(records):
        if (capacity := outcome.capacity) is not None:
            rates = capacity.rates()
            searched.append(_Searched(record, capacity, capacity.line(), knee_of(rates), best_of(rates)))
    return searched


def capacity_table(records: Sequence[Record]) -> Table:
    """The largest batch of every search, with the line through the tried ones."""
    columns: list[Column[_Searched]] = [
        case_column(records),
        Column("Limit", "MiB", numeric=True, cell=lambda row: mib_cell(row.capacity.limit_bytes)),
        Column("Largest batch", "images", numeric=True, cell=lambda row: count_cell(row.capacity.max_batch)),
        Column("Does not fit", "images", numeric=True, cell=lambda row: count_cell(row.capacity.too_large)),
        Column("Which is", cell=lambda row: text_cell(row.capacity.verdict(row.line))),
        Column("Fixed", "MiB", numeric=True, cell=lambda row: _fixed(row.line)),
        Column("Per image", "MiB", numeric=True, cell=lambda row: _per_image(row.line)),
        Column("Knee", "images", numeric=True, cell=lambda row: count_cell(row.knee and row.knee.probe.batch)),
        Column("At the knee", "images/s", numeric=True, cell=lambda row: _rate(row.knee)),
        Column("Best", "images/s", numeric=True, cell=lambda row: _rate(row.best)),
        Column("Tried", "batches", numeric=True, cell=lambda row: count_cell(len(row.capacity.probes))),
    ]
    caption = (
        "Capacity: the largest batch within the limit, the line through what each batch held (± its largest distance), "
        "and the knee, the smallest batch with 95 % of the best throughput"
    )
    return make_table(caption, columns, _searched(records))


def _fixed(line: Line | None) -> Cell:
    if line is None:
        return NOTHING
    fixed = line.fixed_bytes / MIB
    return Cell(text=significant(fixed), detail=f"± {significant(line.error_bytes / MIB)}", sort=fixed)


def _per_image(line: Line | None) -> Cell:
    return number_cell(None if line is None else line.bytes_per_image / MIB)


def _rate(of: Rate | Probe | None) -> Cell:
    return number_cell(of.images_per_second if of is not None else None)


def tried_table(records: Sequence[Record]) -> Table:
    """Batches that the searches tried, in their order; of many searches the first ones."""
    columns: list[Column[_Tried]] = [
        case_column(records),
        Column("Batch", "images", numeric=True, cell=lambda row: count_cell(row.probe.batch)),
        Column("Ended", cell=lambda row: text_cell(row.probe.status)),
        Column("Held", "MiB", numeric=True, cell=lambda row: mib_cell(row.probe.held_bytes)),
        Column("Cache live", "MiB", numeric=True, cell=lambda row: mib_cell(row.probe.cache_live_bytes)),
        Column("Throughput", "images/s", numeric=True, cell=lambda row: _rate(row.probe)),
        Column("Calls", numeric=True, cell=lambda row: count_cell(len(row.probe.samples_ns))),
        Column("Reason", prose=True, cell=lambda row: text_cell(row.probe.reason)),
    ]
    rows = [_Tried(row.record, probe) for row in _searched(records) for probe in row.capacity.probes]
    caption = "Batches tried, in order"
    if len(rows) > MOST_TRIED:
        caption += f" (the first {MOST_TRIED} of {len(rows):,}; the records have all)"
    return make_table(caption, columns, rows[:MOST_TRIED])
