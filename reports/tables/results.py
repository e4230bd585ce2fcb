"""The headline: one row for every case, with or without numbers, and the reasons for missing numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from arvbench.reports.cases import arithmetic, cache_policy_of, hardware, model_of
from arvbench.reports.flags import flags_text
from arvbench.reports.names import case_cells
from arvbench.reports.numbers import (
    MEMORY_SOURCES,
    count_cell,
    estimate_cell,
    interval_kind_cell,
    mib_cell,
    plain,
    scientific,
    significant,
    text_cell,
)
from arvbench.reports.table import NOTHING, Cell, Column, Table, Tone, make_table
from arvbench.reports.tables.measures import SCOPES, CallTime, call_times
from arvbench.reports.tables.quality import quality_columns
from arvbench.results.launches import launches_of, several_launches
from arvbench.results.metrics import HEADLINE_METRICS
from arvbench.results.schema import Failed, Incorrect, Measured, Record, Status
from arvbench.results.statistics import find_timing, images_per_second, nanoseconds

_TONES: dict[Status, Tone] = {
    Status.OK: "good",
    Status.INCORRECT: "bad",
    Status.OOM: "bad",
    Status.TIMEOUT: "bad",
    Status.ERROR: "bad",
    Status.UNSUPPORTED: "warn",
    Status.SKIPPED: "warn",
}

UNSTEADY = "unsteady warm-up"


def results_table(records: Sequence[Record]) -> Table:
    """One row for every case: identity, status, speed, memory and the headline metrics of quality."""
    cells, times = case_cells(records), call_times(records)
    columns: list[Column[Record]] = [
        Column("Case", cell=lambda record: cells[record.record_id]),
        STATUS,
        *_IDENTITY,
        _BATCH,
        *([_LAUNCHES, _INTERVAL] if several_launches(records) else []),
        THROUGHPUT,
        *(_latency_column(scope, times) for scope in SCOPES),
        *peak_memory_columns(),
        CACHE_PEAK,
        *quality_columns(records, HEADLINE_METRICS),
        # The script of the page filters rows by the words of this column.
        Column("Flags", code=True, cell=lambda record: text_cell(flags_text(record))),
    ]
    table = make_table("Results: one row for every case", columns, records)
    return replace(table, row_ids=tuple(record.record_id for record in records))


def failures_table(records: Sequence[Record]) -> Table:
    """Cases without a speed, and the reasons."""
    cells = case_cells(records)
    columns: list[Column[Record]] = [
        Column("Case", cell=lambda record: cells[record.record_id]),
        STATUS,
        _HARDWARE,
        _BATCH,
        Column("Reason", prose=True, cell=lambda record: text_cell(reason(record))),
    ]
    return make_table("Cases without a speed", columns, [r for r in records if r.status is not Status.OK])


def reason(record: Record) -> str:
    """Explain on one line why a case has no speed; "" for a case with one."""
    match record.outcome:
        case Failed(reason=text):
            return plain(text)
        case Incorrect(correctness=check):
            text = (
                f"differs from the {plain(check.judge)}: largest difference {scientific(check.max_abs_diff)} "
                f"(tolerance {scientific(check.tolerance)})"
            )
            if check.equal_tokens is None or check.required_equal_tokens is None:
                return f"{text} of latents"
            return (
                f"{text}, equal tokens {significant(100 * check.equal_tokens, 4)} % "
                f"(required {significant(100 * check.required_equal_tokens, 4)} %)"
            )
        case _:
            return ""


def _status_cell(record: Record) -> Cell:
    return Cell(text=record.status.value, sort=record.status.value, tone=_TONES[record.status])


def _throughput_cell(record: Record) -> Cell:
    """Images per second of the scope images, flagged when warm-up was unsteady."""
    outcome = record.outcome
    timing = find_timing(outcome, "images") if isinstance(outcome, Measured) else None
    cell = estimate_cell(None if timing is None else images_per_second(timing))
    steady = not isinstance(outcome, Measured) or outcome.warmup.steady
    return cell if steady or cell == NOTHING else cell._replace(flags=(UNSTEADY,))


def _interval_cell(record: Record) -> Cell:
    """Say what the interval of the throughput holds."""
    timing = find_timing(record.outcome, "images") if isinstance(record.outcome, Measured) else None
    return NOTHING if timing is None else interval_kind_cell(nanoseconds(timing))


def _latency_column(scope: str, times: Mapping[str, Mapping[str, CallTime]]) -> Column[Record]:
    """Milliseconds per image of one scope; `times` are those of the scopes of every measured record."""

    def cell(record: Record) -> Cell:
        call = times.get(record.record_id, {}).get(scope)
        return estimate_cell(call and call.times.milliseconds_per_image)

    return Column(f"Time: {scope}", "ms/image", numeric=True, cell=cell)


def peak_memory_columns() -> list[Column[Record]]:
    """One column for each source: an allocator's peak and a process's resident set are never compared."""
    return [_peak_memory_column(source) for source in MEMORY_SOURCES]


def _peak_memory_column(source: str) -> Column[Record]:
    def cell(record: Record) -> Cell:
        memory = record.outcome.memory if isinstance(record.outcome, Measured) else None
        return mib_cell(memory.peak_bytes if memory is not None and memory.source == source else None)

    return Column("Peak memory", "MiB", numeric=True, note=MEMORY_SOURCES[source], cell=cell)


def _cache_peak_cell(record: Record) -> Cell:
    return mib_cell(record.outcome.memory.cache_live_bytes) if isinstance(record.outcome, Measured) else NOTHING


_HARDWARE: Column[Record] = Column("Hardware", cell=lambda record: text_cell(hardware(record)), once=True)
_IDENTITY: tuple[Column[Record], ...] = (
    Column("Model", cell=lambda record: text_cell(model_of(record)), once=True),
    Column("Weights", cell=lambda record: text_cell(record.case.weights), once=True),
    Column("Backend", cell=lambda record: text_cell(record.case.backend), once=True),
    Column("Cache", cell=lambda record: text_cell(cache_policy_of(record)), once=True),
    _HARDWARE,
    Column("Dtype", cell=lambda record: text_cell(arithmetic(record)), once=True),
)
_BATCH: Column[Record] = Column("Batch", "images", numeric=True, cell=lambda record: count_cell(record.case.batch))
_LAUNCHES: Column[Record] = Column("Launches", numeric=True, cell=lambda record: count_cell(len(launches_of(record))))
_INTERVAL: Column[Record] = Column("Interval of the median", cell=_interval_cell)
STATUS = Column("Status", cell=_status_cell)
THROUGHPUT = Column("Throughput", "images/s", numeric=True, cell=_throughput_cell)
CACHE_PEAK = Column("Cache peak", "MiB", numeric=True, cell=_cache_peak_cell)
