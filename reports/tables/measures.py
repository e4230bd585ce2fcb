"""Times by scope, the steps of one case, memory by component and the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from arvbench.reports.cases import RANDOM_WEIGHTS, MeasuredCase, conditions, has_random_weights, measured
from arvbench.reports.names import case_column, short_names
from arvbench.reports.numbers import (
    count_cell,
    estimate_cell,
    interval_kind_cell,
    mib_cell,
    number_cell,
    text_cell,
    yes_no_cell,
)
from arvbench.reports.remembered import remembered
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.reports.tables.roofline import floor_cell, percent_cell
from arvbench.results.launches import launches_of, several_launches
from arvbench.results.roofline import Floor, scope_works
from arvbench.results.schema import CacheStep, Measured, Record, StepPlan, Timing, WarmUp
from arvbench.results.statistics import (
    NS_PER_S,
    Estimate,
    Times,
    milliseconds,
    nanoseconds,
    times_of,
    timings_by_scope,
    variation,
)

SCOPES = ("images", "tokens", "decode")
"""Scopes of a whole call, outermost first."""


class CallTime(NamedTuple):
    """Raw times of a scope, and what follows from them."""

    timing: Timing
    times: Times


@remembered
def call_times(records: Sequence[Record]) -> dict[str, dict[str, CallTime]]:
    """Map the ids of measured records to the times of their `SCOPES`, as far as they were taken."""
    return {
        record.record_id: {
            scope: CallTime(timing, times_of(timing)) for scope in SCOPES if (timing := timings.get(scope)) is not None
        }
        for record, outcome in measured(records)
        for timings in [timings_by_scope(outcome)]
    }


class _ScopeTime(NamedTuple):
    """A row of the table of scopes."""

    record: Record
    outcome: Measured
    conditions: str
    timing: Timing
    times: Times


def scopes_table(records: Sequence[Record]) -> Table:
    """Times of the scopes images, tokens and decode, with both rates."""
    columns: list[Column[_ScopeTime]] = [
        case_column(records),
        Column("Scope", cell=lambda row: text_cell(row.timing.scope)),
        Column("Conditions", cell=lambda row: text_cell(row.conditions), once=True),
        Column("Median", "ms/call", numeric=True, cell=lambda row: estimate_cell(row.times.milliseconds)),
        Column("Per image", "ms/image", numeric=True, cell=lambda row: estimate_cell(row.times.milliseconds_per_image)),
        Column("Images", "images/s", numeric=True, cell=lambda row: estimate_cell(row.times.images_per_second)),
        Column(
            "Forward rows", "rows/s", numeric=True, cell=lambda row: estimate_cell(row.times.forward_rows_per_second)
        ),
        Column("Samples", "calls", numeric=True, cell=lambda row: count_cell(len(row.timing.samples_ns))),
        *(_LAUNCH_COLUMNS if several_launches(records) else ()),
        Column("Clock", cell=lambda row: text_cell(row.timing.clock)),
        Column("Warm-up", cell=lambda row: _warmup_cell(row.outcome.warmup)),
    ]
    every = call_times(records)
    rows = [
        _ScopeTime(record, outcome, where, *call)
        for record, outcome in measured(records)
        for where in [str(conditions(record))]
        for call in every[record.record_id].values()
    ]
    return make_table("Times by scope", columns, rows)


def _percent_cell(share: float | None) -> Cell:
    return number_cell(None if share is None else 100 * share, digits=2)


_LAUNCH_COLUMNS: tuple[Column[_ScopeTime], ...] = (
    Column("Launches", numeric=True, cell=lambda row: count_cell(len(launches_of(row.record)))),
    Column("Interval of the median", cell=lambda row: interval_kind_cell(row.times.milliseconds)),
    Column("CV within a launch", "%", numeric=True, cell=lambda row: _percent_cell(variation(row.timing).within)),
    Column("CV between launches", "%", numeric=True, cell=lambda row: _percent_cell(variation(row.timing).between)),
)


def _warmup_cell(warmup: WarmUp) -> Cell:
    calls = len(warmup.samples_ns)
    if warmup.steady:
        return Cell(text="steady", detail=f"{calls} calls", sort=calls)
    return Cell(text="unsteady", detail=f"{calls} calls", sort=calls, tone="warn")


class _Step(NamedTuple):
    """A row of the table of steps: the plan and its measurements."""

    plan: StepPlan
    timing: Timing | None
    tokens: Timing | None
    """The whole token loop."""
    floor: Floor | None
    """None in a record without ceilings."""
    live_bytes: int | None
    allocated_bytes: int | None

    def milliseconds(self) -> Estimate | None:
        return None if self.timing is None else milliseconds(self.timing)

    def pass_ms(self) -> float | None:
        """Mean time of one inner pass."""
        return None if self.timing is None else nanoseconds(self.timing).value / 1e6 / self.plan.inner_passes

    def share(self) -> float | None:
        """Percentage of the token loop."""
        if self.timing is None or self.tokens is None:
            return None
        tokens_ns = nanoseconds(self.tokens).value
        return 100 * nanoseconds(self.timing).value / tokens_ns if tokens_ns > 0 else None

    def floor_share(self) -> float | None:
        """Floor over time."""
        step_ns = 0 if self.timing is None else nanoseconds(self.timing).value
        return self.floor.ns / step_ns if self.floor is not None and step_ns > 0 else None

    def gflop_per_second(self) -> float | None:
        step_ns = 0 if self.timing is None else nanoseconds(self.timing).value
        return self.plan.flops / 1e9 / (step_ns / NS_PER_S) if step_ns > 0 else None


_STEP_COLUMNS: tuple[Column[_Step], ...] = (
    Column("Step", numeric=True, cell=lambda step: Cell(text=str(step.plan.index), sort=step.plan.index)),
    Column("Kind", cell=lambda step: text_cell(step.plan.name)),
    Column("New", "tokens", numeric=True, cell=lambda step: count_cell(step.plan.new_tokens)),
    Column("Context", "tokens", numeric=True, cell=lambda step: count_cell(step.plan.context_tokens)),
    Column("Rows", "sequences", numeric=True, cell=lambda step: count_cell(step.plan.rows)),
    Column("Time", "ms", numeric=True, cell=lambda step: estimate_cell(step.milliseconds())),
    Column("Floor", "ms", numeric=True, cell=lambda step: floor_cell(step.floor)),
    Column("Floor of time", "%", numeric=True, cell=lambda step: percent_cell(step.floor_share())),
    Column("Bound by", cell=lambda step: text_cell(step.floor.bound if step.floor else None)),
    Column("Share of tokens scope", "%", numeric=True, cell=lambda step: number_cell(step.share())),
    Column("Planned work", "GFLOP", numeric=True, cell=lambda step: number_cell(step.plan.flops / 1e9)),
    Column("Rate", "GFLOP/s", numeric=True, cell=lambda step: number_cell(step.gflop_per_second())),
    Column("Cache planned", "MiB", numeric=True, cell=lambda step: mib_cell(step.plan.cache_bytes)),
    Column("Cache live", "MiB", numeric=True, cell=lambda step: mib_cell(step.live_bytes)),
    Column("Cache allocated", "MiB", numeric=True, cell=lambda step: mib_cell(step.allocated_bytes)),
)


_PASS_COLUMNS: tuple[Column[_Step], ...] = (
    Column("Inner passes", numeric=True, cell=lambda step: count_cell(step.plan.inner_passes)),
    Column("Time of a pass", "ms", numeric=True, cell=lambda step: number_cell(step.pass_ms())),
)
"""Of models whose steps run a network several times."""


def _step_columns(steps: Sequence[_Step]) -> tuple[Column[_Step], ...]:
    """Columns of one table; those of inner passes where there are some."""
    if all(step.plan.inner_passes == 1 for step in steps):
        return _STEP_COLUMNS
    at = next(number for number, column in enumerate(_STEP_COLUMNS) if column.label == "Time") + 1
    return (*_STEP_COLUMNS[:at], *_PASS_COLUMNS, *_STEP_COLUMNS[at:])


MOST_STEPS = 500
"""Rows of all tables of steps together; a page of more is slow to open, and nobody reads it."""


def step_tables(records: Sequence[Record]) -> list[Table]:
    """One table for each case with planned steps: the plan beside the measurements; the first `MOST_STEPS` rows."""
    names = short_names(records)
    tables, room = list[Table](), MOST_STEPS
    for record, outcome in measured(records):
        if room == 0:
            break
        steps = _steps(record, outcome, room)
        room -= len(steps)
        mark = f" ({RANDOM_WEIGHTS})" if has_random_weights(record) else ""
        tables.append(make_table(f"Steps of {names[record.record_id]}{mark}", _step_columns(steps), steps))
    return [table for table in tables if table]


def steps_left_out(records: Sequence[Record]) -> str:
    """Say how many rows `step_tables` leaves out, and where they are; "" for none."""
    count = sum(len(outcome.setup.plan) for _, outcome in measured(records))
    if count <= MOST_STEPS:
        return ""
    return (
        f"Shown: the first {MOST_STEPS:,} of {count:,} steps. The other {count - MOST_STEPS:,} are in the records, "
        "under `outcome`: `setup.plan`, `timings` and `cache`."
    )


def _steps(record: Record, outcome: Measured, most: int) -> list[_Step]:
    cache = {step.step: step for step in outcome.cache}
    timings, works = timings_by_scope(outcome), scope_works(record, outcome)
    return [
        _Step(
            plan=plan,
            timing=timings.get(f"step[{plan.index}]"),
            tokens=timings.get("tokens"),
            floor=work.floor if (work := works.get(f"step[{plan.index}]")) else None,
            live_bytes=cache[plan.index].live_bytes if plan.index in cache else None,
            allocated_bytes=cache[plan.index].allocated_bytes if plan.index in cache else None,
        )
        for plan in outcome.setup.plan[:most]
    ]


def cache_table(records: Sequence[Record]) -> Table:
    """Peak of the cache: planned bytes, live bytes and the storage held for them."""
    columns: list[Column[MeasuredCase]] = [
        case_column(records),
        Column("Policy", cell=lambda case: text_cell(case.outcome.setup.cache_policy)),
        Column("Batch", "images", numeric=True, cell=lambda case: count_cell(case.record.case.batch)),
        Column(
            "Planned peak", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.cache_planned_bytes)
        ),
        Column("Live peak", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.cache_live_bytes)),
        Column("Allocated", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.cache_allocated_bytes)),
        Column(
            "Live of allocated, mean of steps",
            "%",
            numeric=True,
            cell=lambda case: number_cell(_mean_use(case.outcome.cache)),
        ),
        Column("Live equals plan at every step", cell=lambda case: _exact_cell(case.outcome.cache)),
    ]
    kept = "what is kept between steps: keys and values, or in M-VAR the mixers' state or history"
    return make_table(f"Cache at its peak ({kept})", columns, measured(records))


def _mean_use(cache: Sequence[CacheStep]) -> float | None:
    """Percentage of the allocated storage that is live, averaged over the steps; None where nothing is allocated."""
    shares = [100 * step.live_bytes / step.allocated_bytes for step in cache if step.allocated_bytes]
    return sum(shares) / len(shares) if shares else None


def _exact_cell(cache: Sequence[CacheStep]) -> Cell:
    exact = all(step.live_bytes == step.planned_bytes for step in cache)
    return yes_no_cell(exact, good=True) if cache else NOTHING


def memory_table(records: Sequence[Record]) -> Table:
    """Memory by component; an empty cell is unknown on this machine."""
    columns: list[Column[MeasuredCase]] = [
        case_column(records),
        Column("Conditions", cell=lambda case: text_cell(conditions(case.record)), once=True),
        Column("Weights", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.weights_bytes)),
        Column("Cache live", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.cache_live_bytes)),
        Column(
            "Cache allocated",
            "MiB",
            numeric=True,
            cell=lambda case: mib_cell(case.outcome.memory.cache_allocated_bytes),
        ),
        Column(
            "Token loop, above idle",
            "MiB",
            numeric=True,
            cell=lambda case: mib_cell(case.outcome.memory.tokens_peak_bytes),
        ),
        Column(
            "Decode, above idle", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.decode_peak_bytes)
        ),
        Column("Peak", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.peak_bytes)),
        Column("Source of peak", cell=lambda case: text_cell(case.outcome.memory.source)),
        Column("Reserved", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.reserved_bytes)),
        Column("Whole device", "MiB", numeric=True, cell=lambda case: mib_cell(case.outcome.memory.device_used_bytes)),
    ]
    return make_table("Memory by component", columns, measured(records))
