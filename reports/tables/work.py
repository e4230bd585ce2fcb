"""Work of the cases beside their speed: speed-up = work saved x efficiency."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from arvbench.reports.cases import MeasuredCase, conditions, measured
from arvbench.reports.names import case_column
from arvbench.reports.numbers import count_cell, number_cell
from arvbench.reports.table import Column, Table, make_table
from arvbench.results.schema import CaseWork, Record
from arvbench.results.statistics import find_timing, images_per_second


class Gain(NamedTuple):
    """Speed-up of a case over the plain one, and its two factors: the product of the last two is the first."""

    speed_up: float
    saved: float
    """FLOPs of the plain case's steps over those of this one."""
    efficiency: float
    """Share of the saved work that became time: FLOPs per second over those of the plain case."""


class _CaseWork(NamedTuple):
    """A row of the table."""

    record: Record
    work: CaseWork
    gain: Gain | None


def work_table(records: Sequence[Record]) -> Table:
    """Work of one call, and where a plain case of the same model was measured, the speed-up over it in two factors."""
    cases = measured(records)
    plain = {_key(case): case for case in reversed(cases) if _is_plain(case)}
    rows = [
        _CaseWork(case.record, case.outcome.work, gain(case, plain.get(_key(case))))
        for case in cases
        if case.outcome.work is not None
    ]
    columns: list[Column[_CaseWork]] = [
        case_column(records),
        Column("Forward passes", numeric=True, cell=lambda row: count_cell(row.work.forward_passes)),
        Column("Tokens forwarded", numeric=True, cell=lambda row: count_cell(row.work.tokens_forwarded)),
        Column("Layer tokens", numeric=True, cell=lambda row: count_cell(row.work.layer_tokens)),
        Column("Attention pairs", numeric=True, cell=lambda row: count_cell(row.work.attention_pairs)),
        Column("Speed-up", "x", numeric=True, cell=lambda row: number_cell(row.gain and row.gain.speed_up)),
        Column("Work saved", "x", numeric=True, cell=lambda row: number_cell(row.gain and row.gain.saved)),
        Column("Efficiency", numeric=True, cell=lambda row: number_cell(row.gain and row.gain.efficiency)),
    ]
    return make_table(
        "Work of one call, over the plain case with an exact cache: speed-up = work saved x efficiency, of the "
        "autoregressive loop; work saved counts FLOPs",
        columns,
        rows,
    )


def gain(case: MeasuredCase, plain: MeasuredCase | None) -> Gain | None:
    """Return the speed-up of `case` over `plain` and its factors; None without a plain case or times."""
    if plain is None or plain.record is case.record:
        return None
    ours, theirs = (find_timing(side.outcome, "tokens") for side in (case, plain))
    work, whole = (sum(step.flops for step in side.outcome.setup.plan) for side in (case, plain))
    if ours is None or theirs is None or not work or not whole:
        return None
    fast, slow = images_per_second(ours), images_per_second(theirs)
    if fast is None or slow is None:
        return None
    speed_up = fast.value / slow.value
    saved = whole / work
    return Gain(speed_up=speed_up, saved=saved, efficiency=speed_up / saved)


def _is_plain(case: MeasuredCase) -> bool:
    return (
        case.record.case.method is None
        and case.record.case.cache in (None, case.outcome.setup.cache_policy)
        and (not case.outcome.setup.lossy or all(part.startswith("dtype") for part in case.outcome.setup.lossy))
    )


def _key(case: MeasuredCase) -> Hashable:
    record = case.record
    return (record.case.model, record.case.weights, record.case.backend, conditions(record), str(record.case.settings))
