"""Numbers of too few launches to blame anything: their ratio, and an interval that says what it covers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from arvbench.harness.check.gated import Judgement, Pair, Series, pairs_of
from arvbench.harness.check.launch_tests import ratio_interval
from arvbench.harness.check.numbers import gated_numbers
from arvbench.harness.check.rule import Rule, can_alarm, launches_needed
from arvbench.harness.check.wording import change_of
from arvbench.results.schema import Measured, Record
from arvbench.results.verdict import Change, Verdict


class Few(NamedTuple):
    """Numbers of too few launches."""

    pairs: tuple[Pair, ...]
    needed: int
    """Launches per side with which all numbers of the comparison could be judged together."""


def few_launches(base: Sequence[Series], head: Sequence[Series], rule: Rule) -> Few:
    """Select the numbers that vary and have too few launches for any verdict, at least one on each side."""
    pairs = pairs_of(base, head)
    # At least 1: a comparison of exact numbers alone needs no launches.
    family = max(1, sum(pair.shown.judgement is not Judgement.EXACT for pair in pairs))
    few = tuple(
        pair
        for pair in pairs
        if pair.shown.judgement is Judgement.LAUNCHES and not pair.fault() and not _can_alarm(pair, family, rule)
    )
    return Few(few, launches_needed(family, rule))


def few_changes(
    few: Few,
    records: tuple[Sequence[Record], Sequence[Record]],
    *,
    machine: Sequence[str] = (),
) -> list[Change]:
    """Return the changes of such numbers; `records` are those of base and of head. None of them is a regression."""
    calls = [{one.key: one for one in calls_of(side)} for side in records]
    return [
        _change(pair, calls[0].get(pair.key), calls[1].get(pair.key), few.needed, bool(machine)) for pair in few.pairs
    ]


def _change(pair: Pair, base_calls: Series | None, head_calls: Series | None, needed: int, moved: bool) -> Change:
    series = pair.shown
    base, head = pair.values
    counts = (len(base), len(head))
    within = counts == (1, 1) and series.kind == "time" and base_calls is not None and head_calls is not None
    if within and base_calls and head_calls:
        interval = ratio_interval(np.array(base_calls.values), np.array(head_calls.values))
        said = (
            f"One launch on each side: {'the interval is' if interval else 'the ratio is'} within one process and "
            "holds no difference between launches"
        )
    else:
        interval = ratio_interval(np.array(base), np.array(head))
        said = f"{counts[0]} and {counts[1]} launches are too few to blame anything"
    verdict = Verdict.MACHINE if moved and series.kind == "time" else Verdict.INCONCLUSIVE
    reason = f"{said}; {needed} per side are needed."
    if verdict is Verdict.MACHINE:
        reason = f"The machine moved, so that a time says nothing about the code. {reason}"
    return change_of(pair, verdict, reason, ratio=median(head) / median(base), interval=interval)


def calls_of(records: Iterable[Record]) -> tuple[Series, ...]:
    """Return the times of single launches with their calls as values."""
    calls = [
        record.model_copy(update={"launch": number + 1, "outcome": _call(record.outcome, number)})
        for record in records
        if isinstance(record.outcome, Measured)
        for number in range(max((len(timing.samples_ns) for timing in record.outcome.timings), default=0))
    ]
    return gated_numbers(calls, side="calls").series


def _call(outcome: Measured, number: int) -> Measured:
    """Return an outcome with one call of each timing; timings with fewer calls have none left."""
    timings = tuple(
        timing.model_copy(update={"samples_ns": timing.samples_ns[number : number + 1]}) for timing in outcome.timings
    )
    return outcome.model_copy(update={"timings": timings})


def _can_alarm(pair: Pair, family: int, rule: Rule) -> bool:
    base, head = pair.values
    return can_alarm(len(base), len(head), family, rule)
