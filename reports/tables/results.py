"""The headline: one row for every case, whether it has numbers or not, and the reasons of those that have none."""

from __future__ import annotations

from collections.abc import Sequence

from arvbench.reports.cases import arithmetic, cache_policy_of, case_cell, case_names, hardware, model_of
from arvbench.reports.numbers import (
    MEMORY_SOURCES,
    count_cell,
    estimate_cell,
    mib_cell,
    plain,
    scientific,
    significant,
    text_cell,
)
from arvbench.reports.table import NOTHING, Cell, Column, Table, Tone, make_table
from arvbench.reports.tables.quality import quality_cells, quality_columns
from arvbench.results.metrics import HEADLINE_METRICS
from arvbench.results.schema import Failed, Incorrect, Measured, Record, Status
from arvbench.results.statistics import find_timing, images_per_second, milliseconds_per_image

_TONES: dict[Status, Tone] = {
    Status.OK: "good",
    Status.INCORRECT: "bad",
    Status.OOM: "bad",
    Status.TIMEOUT: "bad",
    Status.ERROR: "bad",
    Status.UNSUPPORTED: "warn",
    Status.SKIPPED: "warn",
}

IMAGE_SCOPES = ("images", "tokens", "decode")
"""Scopes of the headline table, outermost first."""

UNSTEADY = "unsteady warm-up"


def results_table(records: Sequence[Record]) -> Table:
    """One row for every case: what ran, how it ended, speed, memory and the headline metrics of quality."""
    names = case_names(records)
    columns = [
        Column(label="Case"),
        Column(label="Status"),
        Column(label="Model"),
        Column(label="Weights"),
        Column(label="Backend"),
        Column(label="Cache"),
        Column(label="Hardware"),
        Column(label="Dtype"),
        Column(label="Batch", unit="images", numeric=True),
        Column(label="Throughput", unit="images/s", numeric=True),
        *(Column(label=f"Time: {scope}", unit="ms/image", numeric=True) for scope in IMAGE_SCOPES),
        *peak_memory_columns(),
        Column(label="Cache peak", unit="MiB", numeric=True),
        *quality_columns(records, HEADLINE_METRICS),
    ]
    rows = [
        [
            case_cell(record, names),
            status_cell(record.status),
            text_cell(model_of(record)),
            text_cell(record.case.weights),
            text_cell(record.case.backend),
            text_cell(cache_policy_of(record)),
            text_cell(hardware(record)),
            text_cell(arithmetic(record)),
            count_cell(record.case.batch),
            throughput_cell(record),
            *(latency_cell(record, scope) for scope in IMAGE_SCOPES),
            *peak_memory_cells(record),
            cache_peak_cell(record),
            *quality_cells(record, records, HEADLINE_METRICS),
        ]
        for record in records
    ]
    return _shared_in_caption("Results: one row for every case", columns, rows)


_MAY_BE_SHARED = ("Model", "Weights", "Backend", "Cache", "Hardware", "Dtype")
"""Columns that say nothing when all rows agree."""


def _shared_in_caption(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Table:
    """Leave room for numbers: what several rows all share is said once, in the caption."""
    shared = {
        place: rows[0][place].text
        for place, column in enumerate(columns)
        if column.label in _MAY_BE_SHARED and len(rows) > 1 and len({row[place].text for row in rows}) == 1
    }
    said = "; ".join(f"{columns[place].label.lower()} {text}" for place, text in shared.items())
    kept = [place for place in range(len(columns)) if place not in shared]
    return make_table(
        f"{caption} (all: {said})" if said else caption,
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
    )


def status_cell(status: Status) -> Cell:
    return Cell(text=status.value, sort=status.value, tone=_TONES[status])


def throughput_cell(record: Record) -> Cell:
    """Images per second of the scope images; nothing for a case without a speed."""
    match record.outcome:
        case Measured() as outcome:
            timing = find_timing(outcome, "images")
            cell = estimate_cell(None if timing is None else images_per_second(timing))
            if outcome.warmup.steady or cell == NOTHING:
                return cell
            return Cell(text=cell.text, detail=cell.detail, sort=cell.sort, flags=(UNSTEADY,))
        case _:
            return NOTHING


def latency_cell(record: Record, scope: str) -> Cell:
    """Milliseconds per image of one scope; nothing for a case without a speed."""
    match record.outcome:
        case Measured() as outcome:
            timing = find_timing(outcome, scope)
            return estimate_cell(None if timing is None else milliseconds_per_image(timing))
        case _:
            return NOTHING


def peak_memory_columns() -> list[Column]:
    """One column for each source: an allocator's peak and a process's resident set are never compared."""
    return [Column(label="Peak memory", unit="MiB", numeric=True, note=source) for source in MEMORY_SOURCES.values()]


def peak_memory_cells(record: Record) -> list[Cell]:
    """The record's cells under `peak_memory_columns()`."""
    outcome = record.outcome
    return [
        mib_cell(outcome.memory.peak_bytes)
        if isinstance(outcome, Measured) and outcome.memory.source == source
        else NOTHING
        for source in MEMORY_SOURCES
    ]


def cache_peak_cell(record: Record) -> Cell:
    """Measured peak of the live cache."""
    match record.outcome:
        case Measured(memory=memory):
            return mib_cell(memory.cache_live_bytes)
        case _:
            return NOTHING


def failures_table(records: Sequence[Record]) -> Table:
    """Cases that have no speed, and why."""
    names = case_names(records)
    rows = [
        [
            case_cell(record, names),
            status_cell(record.status),
            text_cell(hardware(record)),
            count_cell(record.case.batch),
            text_cell(reason(record)),
        ]
        for record in records
        if record.status is not Status.OK
    ]
    columns = [
        Column(label="Case"),
        Column(label="Status"),
        Column(label="Hardware"),
        Column(label="Batch", unit="images", numeric=True),
        Column(label="Reason", prose=True),
    ]
    return make_table("Cases without a speed", columns, rows)


def reason(record: Record) -> str:
    """Why a case has no speed, on one line; empty for one that has."""
    match record.outcome:
        case Failed(reason=text):
            return plain(text)
        case Incorrect(correctness=check):
            return (
                f"differs from the {plain(check.judge)}: largest difference {scientific(check.max_abs_diff)} "
                f"(tolerance {scientific(check.tolerance)}), equal tokens {significant(100 * check.equal_tokens, 4)} % "
                f"(required {significant(100 * check.required_equal_tokens, 4)} %)"
            )
        case _:
            return ""
