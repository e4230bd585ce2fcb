"""The same run by five definitions of memory, what each number counts, and what concatenation takes for a moment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from arvbench.reports.cases import MeasuredCase, group_by, measured
from arvbench.reports.names import case_column
from arvbench.reports.numbers import count_cell, mapping_text, mib_cell, number_cell, text_cell
from arvbench.reports.table import Cell, Column, Table, make_table
from arvbench.results.comparison import comparison_key, hardware_class
from arvbench.results.memory import DEFINITIONS, Definition, MemorySource, StepPeak, TensorPeaks, absent_of, counts_of
from arvbench.results.schema import Record


def definitions_table(records: Sequence[Record]) -> Table:
    """One run by every definition; an empty cell is a number that this machine does not have."""
    columns: list[Column[MeasuredCase]] = [
        case_column(records),
        *(
            Column(kind.label, "MiB", numeric=True, cell=partial(_definition_cell, definition=kind))
            for kind in DEFINITIONS
        ),
        Column("Largest over smallest", "times", numeric=True, cell=lambda case: number_cell(_spread(case))),
    ]
    return make_table("The same run by five definitions of its memory", columns, measured(records))


def _definition_cell(case: MeasuredCase, *, definition: Definition) -> Cell:
    return mib_cell(definition.of(case.outcome.memory))


def _spread(case: MeasuredCase) -> float | None:
    sizes = [size for kind in DEFINITIONS if (size := kind.of(case.outcome.memory))]
    return max(sizes) / min(sizes) if len(sizes) > 1 else None


class _Count(NamedTuple):
    """A row of the table of what is counted."""

    name: str
    source: MemorySource
    counts: str
    absent: str


def counts_table(records: Sequence[Record]) -> Table:
    """One sentence for each memory number of the records, and the reason why one is absent."""
    sources = dict.fromkeys(outcome.memory.source for _, outcome in measured(records))
    rows = [_Count(name, source, text, "") for source in sources for name, text in counts_of(source).items()]
    rows += [_Count(name, source, "", text) for source in sources for name, text in absent_of(source).items()]
    columns: list[Column[_Count]] = [
        Column("Number in the record", code=True, cell=lambda row: text_cell(row.name)),
        Column("Source", cell=lambda row: text_cell(row.source)),
        Column("Counts", prose=True, cell=lambda row: text_cell(row.counts)),
        Column("Absent, because", prose=True, cell=lambda row: text_cell(row.absent)),
    ]
    return make_table("What each memory number counts", columns, rows)


def allocators_table(records: Sequence[Record]) -> Table:
    """Settings of allocators and retries; only cases that have one."""
    rows = [
        case
        for case in measured(records)
        if case.outcome.memory.allocator_settings or case.outcome.memory.allocation_retries is not None
    ]
    columns: list[Column[MeasuredCase]] = [
        case_column(records),
        Column(
            "Allocator settings",
            code=True,
            cell=lambda case: text_cell(mapping_text(case.outcome.memory.allocator_settings) or "none set"),
        ),
        Column("Retries", numeric=True, cell=lambda case: count_cell(case.outcome.memory.allocation_retries)),
    ]
    return make_table("Settings of allocators, and retries of CUDA's", columns, rows)


class _Traced(NamedTuple):
    """A row of the table of transients."""

    record: Record
    tensors: TensorPeaks
    live_bytes: int
    static: TensorPeaks | None
    """Of the static cache, with all else equal."""

    @property
    def worst(self) -> StepPeak:
        return self.tensors.worst

    def above_static(self) -> int | None:
        """Peak of the token loop above that of the static cache, which copies nothing."""
        return None if self.static is None else self.tensors.tokens_peak_bytes - self.static.tokens_peak_bytes


def transients_table(records: Sequence[Record]) -> Table:
    """Peaks of tensors step by step: a cache that concatenates holds old and new copy for a moment."""
    columns: list[Column[_Traced]] = [
        case_column(records),
        Column("Cache live", "MiB", numeric=True, cell=lambda row: mib_cell(row.live_bytes)),
        Column("Token loop", "MiB", numeric=True, cell=lambda row: mib_cell(row.tensors.tokens_peak_bytes)),
        Column("Above static", "MiB", numeric=True, cell=lambda row: mib_cell(row.above_static())),
        Column("Largest transient", "MiB", numeric=True, cell=lambda row: mib_cell(row.worst.transient_bytes)),
        Column("In step", numeric=True, cell=lambda row: count_cell(row.worst.step)),
        Column("Decode", "MiB", numeric=True, cell=lambda row: mib_cell(row.tensors.decode_peak_bytes)),
        Column("Allocator history", code=True, cell=lambda row: text_cell(row.tensors.snapshot)),
    ]
    caption = "Peaks of all tensors of a call, above those before it; transient: in a step, beyond what it leaves"
    return make_table(caption, columns, _traced(records))


def _traced(records: Sequence[Record]) -> list[_Traced]:
    rows: list[_Traced] = []
    cases = measured(records)
    if all(case.outcome.memory.tensors is None for case in cases):
        return rows
    for members in group_by(cases, lambda case: _alike(case.record)).values():
        traced = [case for case in members if case.outcome.memory.tensors is not None]
        static = next((case for case in traced if case.outcome.setup.cache_policy == "static"), None)
        for case in traced:
            tensors, live = case.outcome.memory.tensors, case.outcome.memory.cache_live_bytes
            assert tensors is not None
            rows.append(_Traced(case.record, tensors, live, static and static.outcome.memory.tensors))
    return rows


def _alike(record: Record) -> str:
    """Return what is equal in cases that differ in the cache alone."""
    return f"{comparison_key(record, cache=None)} {hardware_class(record.environment)}"
