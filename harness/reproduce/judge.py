"""Verdict on a number: published and measured, with what each may be off by.

A difference is a reproduction up to
  the tolerance that the source states, where it states one; else
  the rounding of the published number, and sqrt(2) times the distance from our number to the end of its 95 % interval
  on that side. The published number is a draw of as many images as ours, with a spread of its own that no source
  states: it is taken to be ours, and the difference of two draws has sqrt(2) times the spread of one.

Nothing is decided, either way, with another number of images than the published one (the bias of FID depends on it),
without an interval, and where more than 10 % of the number would be allowed: noise that large hides what matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from arvbench.results.metrics import label_of
from arvbench.results.reproduction import Judged, Outcome, Target
from arvbench.results.schema import Quality

BLIND: Final = 0.10


def judge(targets: Sequence[Target], numbers: Sequence[Quality]) -> tuple[Judged, ...]:
    """Return every target of which a number was measured, with its verdict."""
    by_metric = {number.metric: number for number in numbers}
    return tuple(judged(target, by_metric[target.metric]) for target in targets if target.metric in by_metric)


def judged(target: Target, number: Quality) -> Judged:
    """Return the verdict on one number."""
    outcome, allowed, reason = _verdict(target, number)
    return Judged(
        target=target,
        value=number.value,
        interval=number.interval,
        allowed=allowed,
        outcome=outcome,
        reason=reason,
    )


def _verdict(target: Target, number: Quality) -> tuple[Outcome, float | None, str]:
    name = label_of(target.metric).text
    if number.n_samples != target.images:
        return (
            Outcome.INCONCLUSIVE,
            None,
            f"{name} is of {number.n_samples:,} images: a verdict needs the published {target.images:,}",
        )
    if target.protocol_id is not None and number.protocol_id != target.protocol_id:
        words = f"{number.protocol_id} here, {target.protocol_id} there"
        return Outcome.INCONCLUSIVE, None, f"{name} is of another protocol: {words}"
    allowed = target.tolerance
    if allowed is None:
        if number.interval is None:
            return Outcome.INCONCLUSIVE, None, f"{name} has no interval, and its source states no tolerance"
        end = number.interval[0] if number.value > target.value else number.interval[1]
        allowed = target.rounding + math.sqrt(2) * abs(end - number.value)
    if target.tolerance is None and allowed > BLIND * abs(target.value):
        return Outcome.INCONCLUSIVE, allowed, f"{name} may be off by more than {BLIND:.0%}: that decides nothing"
    difference = abs(number.value - target.value)
    met = difference <= allowed
    words = f"{name} differs by {difference:.3g}, and {allowed:.3g} is allowed"
    return (Outcome.REPRODUCED if met else Outcome.NOT_REPRODUCED), allowed, words


def whole(numbers: Sequence[Judged]) -> tuple[Outcome, str]:
    """Return the verdict on the whole: that of the first number, FID, which the source is known by."""
    if not numbers:
        return Outcome.INCONCLUSIVE, "none of the published numbers was measured"
    return numbers[0].outcome, numbers[0].reason
