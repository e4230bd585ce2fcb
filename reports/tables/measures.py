"""Times by scope, the steps of one case, memory by component and the cache."""

from __future__ import annotations

from collections.abc import Sequence

from arvbench.reports.cases import RANDOM_WEIGHTS, case_cell, case_names, conditions, has_random_weights, measured
from arvbench.reports.numbers import count_cell, estimate_cell, mib_cell, number_cell, text_cell, yes_no_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.schema import CacheStep, Measured, Record, StepPlan
from arvbench.results.statistics import (
    NS_PER_S,
    find_timing,
    forward_rows_per_second,
    images_per_second,
    median_interval,
    milliseconds,
    milliseconds_per_image,
)

_SCOPES = ("images", "tokens", "decode")


def scopes_table(records: Sequence[Record]) -> Table:
    """Times of the scopes images, tokens and decode, with both rates."""
    names = case_names(records)
    rows: list[list[Cell]] = []
    for record, outcome in measured(records):
        for scope in _SCOPES:
            timing = find_timing(outcome, scope)
            if timing is None:
                continue
            rows.append(
                [
                    case_cell(record, names),
                    text_cell(scope),
                    text_cell(conditions(record)),
                    estimate_cell(milliseconds(timing)),
                    estimate_cell(milliseconds_per_image(timing)),
                    estimate_cell(images_per_second(timing)),
                    estimate_cell(forward_rows_per_second(timing)),
                    count_cell(len(timing.samples_ns)),
                    text_cell(timing.clock),
                    Cell(
                        text="steady" if outcome.warmup.steady else "unsteady",
                        detail=f"{len(outcome.warmup.samples_ns)} calls",
                        sort=len(outcome.warmup.samples_ns),
                        tone="plain" if outcome.warmup.steady else "warn",
                    ),
                ]
            )
    columns = [
        Column(label="Case"),
        Column(label="Scope"),
        Column(label="Conditions"),
        Column(label="Median", unit="ms/call", numeric=True),
        Column(label="Per image", unit="ms/image", numeric=True),
        Column(label="Images", unit="images/s", numeric=True),
        Column(label="Forward rows", unit="rows/s", numeric=True),
        Column(label="Samples", unit="calls", numeric=True),
        Column(label="Clock"),
        Column(label="Warm-up"),
    ]
    return make_table("Times by scope", columns, rows)


def step_table(record: Record, names: dict[str, str]) -> Table:
    """The steps of one case: the plan beside what was measured."""
    columns = [
        Column(label="Step", numeric=True),
        Column(label="Kind"),
        Column(label="New", unit="tokens", numeric=True),
        Column(label="Context", unit="tokens", numeric=True),
        Column(label="Rows", unit="sequences", numeric=True),
        Column(label="Time", unit="ms", numeric=True),
        Column(label="Share of tokens scope", unit="%", numeric=True),
        Column(label="Planned work", unit="GFLOP", numeric=True),
        Column(label="Rate", unit="GFLOP/s", numeric=True),
        Column(label="Cache planned", unit="MiB", numeric=True),
        Column(label="Cache live", unit="MiB", numeric=True),
        Column(label="Cache allocated", unit="MiB", numeric=True),
    ]
    mark = f" ({RANDOM_WEIGHTS})" if has_random_weights(record) else ""
    caption = f"Steps of {names[record.record_id]}{mark}"
    outcome = record.outcome
    if not isinstance(outcome, Measured):
        return make_table(caption, columns, [])
    cache = {step.step: step for step in outcome.cache}
    rows = [_step_row(outcome, plan, cache.get(plan.index)) for plan in outcome.setup.plan]
    return make_table(caption, columns, rows)


def _step_row(outcome: Measured, plan: StepPlan, cache: CacheStep | None) -> list[Cell]:
    timing = find_timing(outcome, f"step[{plan.index}]")
    whole = find_timing(outcome, "tokens")
    share = rate = NOTHING
    if timing is not None:
        step_ns = median_interval(timing.samples_ns).value
        if whole is not None and (tokens_ns := median_interval(whole.samples_ns).value) > 0:
            share = number_cell(100 * step_ns / tokens_ns)
        if step_ns > 0:
            rate = number_cell(plan.flops / 1e9 / (step_ns / NS_PER_S))
    return [
        Cell(text=str(plan.index), sort=plan.index),
        text_cell(plan.name),
        count_cell(plan.new_tokens),
        count_cell(plan.context_tokens),
        count_cell(plan.rows),
        NOTHING if timing is None else estimate_cell(milliseconds(timing)),
        share,
        number_cell(plan.flops / 1e9),
        rate,
        mib_cell(plan.cache_bytes),
        NOTHING if cache is None else mib_cell(cache.live_bytes),
        NOTHING if cache is None else mib_cell(cache.allocated_bytes),
    ]


def cache_table(records: Sequence[Record]) -> Table:
    """Peak of the cache: the plan, the live bytes, the storage held for them."""
    names = case_names(records)
    rows: list[list[Cell]] = []
    for record, outcome in measured(records):
        memory = outcome.memory
        exact = all(step.live_bytes == step.planned_bytes for step in outcome.cache)
        rows.append(
            [
                case_cell(record, names),
                text_cell(outcome.setup.cache_policy),
                count_cell(record.case.batch),
                mib_cell(memory.cache_planned_bytes),
                mib_cell(memory.cache_live_bytes),
                mib_cell(memory.cache_allocated_bytes),
                number_cell(_mean_use(outcome.cache)),
                yes_no_cell(exact, good=True) if outcome.cache else NOTHING,
            ]
        )
    columns = [
        Column(label="Case"),
        Column(label="Policy"),
        Column(label="Batch", unit="images", numeric=True),
        Column(label="Planned peak", unit="MiB", numeric=True),
        Column(label="Live peak", unit="MiB", numeric=True),
        Column(label="Allocated", unit="MiB", numeric=True),
        Column(label="Live of allocated, mean of steps", unit="%", numeric=True),
        Column(label="Live equals plan at every step"),
    ]
    kept = "what is kept between steps: keys and values, or in M-VAR the mixers' state or history"
    return make_table(f"Cache at its peak ({kept})", columns, rows)


def _mean_use(cache: Sequence[CacheStep]) -> float | None:
    """Percentage of the allocated storage that is live, averaged over the steps; None where nothing is allocated."""
    shares = [100 * step.live_bytes / step.allocated_bytes for step in cache if step.allocated_bytes]
    return sum(shares) / len(shares) if shares else None


def memory_table(records: Sequence[Record]) -> Table:
    """Memory by component; an empty cell is something that this machine cannot tell."""
    names = case_names(records)
    rows = [
        [
            case_cell(record, names),
            text_cell(conditions(record)),
            mib_cell(outcome.memory.weights_bytes),
            mib_cell(outcome.memory.cache_live_bytes),
            mib_cell(outcome.memory.cache_allocated_bytes),
            mib_cell(outcome.memory.tokens_peak_bytes),
            mib_cell(outcome.memory.decode_peak_bytes),
            mib_cell(outcome.memory.peak_bytes),
            text_cell(outcome.memory.source),
            mib_cell(outcome.memory.reserved_bytes),
            mib_cell(outcome.memory.device_used_bytes),
        ]
        for record, outcome in measured(records)
    ]
    columns = [
        Column(label="Case"),
        Column(label="Conditions"),
        Column(label="Weights", unit="MiB", numeric=True),
        Column(label="Cache live", unit="MiB", numeric=True),
        Column(label="Cache allocated", unit="MiB", numeric=True),
        Column(label="Token loop, above idle", unit="MiB", numeric=True),
        Column(label="Decode, above idle", unit="MiB", numeric=True),
        Column(label="Peak", unit="MiB", numeric=True),
        Column(label="Source of peak"),
        Column(label="Reserved", unit="MiB", numeric=True),
        Column(label="Whole device", unit="MiB", numeric=True),
    ]
    return make_table("Memory by component", columns, rows)
