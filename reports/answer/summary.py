"""Summary of a place: one row for each model, the best in bold with its interval, unlike numbers in columns apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arvbench.reports.answer.fields import Field, lead_field
from arvbench.reports.answer.measures import CACHE, SPEED, Measure, quality_measures
from arvbench.reports.cases import RANDOM_WEIGHTS, has_random_weights, measured
from arvbench.reports.numbers import EN_DASH, MEMORY_SOURCES, mib_cell, significant, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.schema import Measured, Record
from arvbench.results.search import MARK

MOST_BATCHES = 3
"""Batches with columns of their own; all are in the results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A model with its records by batch."""

    name: str
    records: dict[int, Record]
    lead: Record
    """The one at the batch with most to compare, or the first that there is."""


def summary_table(fields: Sequence[Field], where: str) -> Table:
    """One row for each model of a place; `where` names the place in the caption, "" for a single one."""
    lead, chosen = lead_field(fields), _chosen(fields)
    names = dict.fromkeys(name for field in (lead, *chosen) for name in field.models)
    rows = [_row(name, chosen, lead) for name in names]
    quality = [_measure_column(measure, lead) for measure in quality_measures(list(lead.models.values()))]
    columns: list[Column[_Row]] = [
        Column("Model", cell=_name_cell),
        *(_batch_column(field, len(chosen) > 1) for field in chosen),
        *quality[:1],
        _measure_column(CACHE, lead, note=f"batch {lead.batch}"),
        *(_memory_column(source, lead) for source in MEMORY_SOURCES),
        *quality[1:],
    ]
    batch = "" if len(chosen) > 1 else f", batch {lead.batch}"
    table = make_table(f"Summary by model{f', {where}' if where else ''}{batch}", columns, rows)
    return replace(table, row_targets=tuple(row.lead.record_id for row in rows))


def _chosen(fields: Sequence[Field]) -> list[Field]:
    """Return the field with most to compare, and the smallest and largest of the other batches, ascending."""
    lead = lead_field(fields)
    others = [field for field in fields if field is not lead]
    ends = others if len(others) < MOST_BATCHES else [others[0], others[-1]]
    return sorted([lead, *ends], key=lambda field: field.batch)


def _row(name: str, chosen: Sequence[Field], lead: Field) -> _Row:
    records = {field.batch: field.models[name] for field in chosen if name in field.models}
    return _Row(name=name, records=records, lead=records.get(lead.batch) or next(iter(records.values())))


def _name_cell(row: _Row) -> Cell:
    return text_cell(row.name, flags=tuple(flag for flag in _flags(row.lead) if f"({flag})" not in row.name))


def _flags(record: Record) -> tuple[str, ...]:
    """Marks that a reader must not overlook."""
    searched = record.case_id.partition(MARK)[2] if record.case.search is not None else ""
    unsteady = any(not outcome.warmup.steady for _, outcome in measured([record]))
    marks = (RANDOM_WEIGHTS if has_random_weights(record) else "", searched, "unsteady" if unsteady else "")
    return tuple(filter(None, marks))


def _batch_column(field: Field, several: bool) -> Column[_Row]:
    return _measure_column(SPEED, field, note=f"batch {field.batch}" if several else "")


def _measure_column(measure: Measure, field: Field, *, note: str = "") -> Column[_Row]:
    """Column of one measure of a field; the best, and those from which it is not apart, are strong."""
    readings = measure.readings(field.models)
    leaders = measure.leaders(readings)
    apart = len(leaders) < len(readings)

    def cell(row: _Row) -> Cell:
        reading = readings.get(row.name)
        if reading is None:
            return NOTHING
        ends = "" if reading.low is None or reading.high is None else _ends(reading.low, reading.high)
        strong = apart and row.name in leaders
        return Cell(text=significant(reading.value), detail=ends, sort=reading.value, strong=strong)

    return Column(measure.label, measure.unit, numeric=True, note=note or measure.protocol, cell=cell)


def _ends(low: float, high: float) -> str:
    return f"{significant(low)} {EN_DASH} {significant(high)}"


def _memory_column(source: str, lead: Field) -> Column[_Row]:
    """Peak memory of one source; it has no interval, so that none is best."""

    def cell(row: _Row) -> Cell:
        record = lead.models.get(row.name)
        memory = record.outcome.memory if record is not None and isinstance(record.outcome, Measured) else None
        return mib_cell(memory.peak_bytes if memory is not None and memory.source == source else None)

    return Column("Peak memory", "MiB", numeric=True, note=MEMORY_SOURCES[source], cell=cell)
