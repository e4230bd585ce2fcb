"""Audit of the rule on launches of one commit: which share of checks without a change would blame somebody.

The launches are split at random into base and head, many times, and each split is judged as a check. Every alarm is a
false one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arvbench.errors import UserError
from arvbench.harness.check.gated import Judgement, Series
from arvbench.harness.check.judge import judge
from arvbench.harness.check.launch_tests import Bools
from arvbench.harness.check.rule import Rule, can_alarm, launches_needed

_SPLITS_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Share of splits, with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Outcome of an audit."""

    splits: int
    launches: int
    """Launches per side of a split."""
    numbers: int
    """Numbers that vary from launch to launch; the others cannot be wrong by chance."""
    regression: Share
    """Splits in which any number is a regression."""
    improvement: Share
    inconclusive: Share
    """Splits in which any number is inconclusive."""


def audit(series: Sequence[Series], rule: Rule, *, splits: int = 1000, seed: int = 0) -> Audit:
    """Judge `splits` random halves of the launches of one commit against the other halves.

    All numbers are split alike, as launches are. The interval holds the chance of the splits, not that of the launches:
    twenty launches of one evening say nothing about another evening.

    Raises UserError when no number varies, when the numbers have different launches, or too few of them.
    """
    varying = [one for one in series if one.judgement is Judgement.LAUNCHES]
    counts = {len(one.values) for one in varying}
    if not varying:
        raise UserError("there is no number that varies from launch to launch: nothing to audit")
    if len(counts) > 1:
        raise UserError(f"the numbers have {min(counts)} to {max(counts)} launches: an audit needs the same of all")
    half = counts.pop() // 2
    if not can_alarm(half, half, len(varying), rule):
        needed = 2 * launches_needed(len(varying), rule)
        raise UserError(f"{len(varying)} numbers need {needed} launches for an audit; there are {2 * half} in pairs")
    values = np.array([one.values for one in varying], dtype=float)
    floors = np.array([one.floor for one in varying])
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise UserError("a launch has a value that is no measurement: zero, negative or not finite")
    rng = np.random.default_rng(seed)
    alarms: list[Bools] = []
    for done in range(0, splits, _SPLITS_AT_ONCE):
        count = min(_SPLITS_AT_ONCE, splits - done)
        order = rng.permuted(np.tile(np.arange(values.shape[1]), (count, 1)), axis=1)[:, : 2 * half]
        drawn = values[:, order].swapaxes(0, 1)
        base, head = drawn[..., :half], drawn[..., half:]
        found = judge(base, head, rule)
        large = np.abs(np.median(head, axis=-1) - np.median(base, axis=-1)) >= floors
        up, down = found.up & large, found.down & large
        lower = np.array([one.lower_is_better for one in varying])
        worse, better = np.where(lower, up, down), np.where(lower, down, up)
        alarms.append(np.asarray(np.stack([worse, better, found.blind & ~worse & ~better]).any(axis=-1)))
    regression, improvement, inconclusive = (_share(row) for row in np.concatenate(alarms, axis=1))
    return Audit(
        splits=splits,
        launches=half,
        numbers=len(varying),
        regression=regression,
        improvement=improvement,
        inconclusive=inconclusive,
    )


def _share(happened: Bools) -> Share:
    from scipy.stats import binomtest

    test = binomtest(int(happened.sum()), happened.size)
    interval = test.proportion_ci(0.95, method="wilson")
    return Share(value=float(test.statistic), low=float(interval.low), high=float(interval.high))
