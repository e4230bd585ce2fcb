"""Findings on numbers that vary from launch to launch: the rule on arrays.

Shapes   numbers of a check lie in the last axis of `p` and of findings, as in `launch_tests`
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arvbench.harness.check.launch_tests import Bools, Comparison, Floats, compare, factors, holm
from arvbench.harness.check.rule import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Findings of the rule, by number."""

    up: Bools
    """Head is larger: beyond chance, and by enough to count."""
    down: Bools
    blind: Bools
    """A change that matters could have been missed: nothing passes."""


def judge(base: Floats, head: Floats, rule: Rule) -> Findings:
    """Judge numbers `[..., numbers, launches]` as one family, without floors."""
    found = compare(base, head, rule)
    family, launches = base.shape[-2], (base.shape[-1], head.shape[-1])
    seen = detectable(found.scatter, launches, family, rule)
    return findings(found, holm(found.up.p, family), holm(found.down.p, family), seen, rule)


def findings(found: Comparison, p_up: Floats, p_down: Floats, seen: Floats, rule: Rule) -> Findings:
    """Apply the rule to comparisons, with their adjusted p and their smallest detectable changes `seen`."""
    # Slow launches widen the scatter, and so the smallest detectable change, but do not move the floors.
    least = np.where(found.by_floors, rule.least_change, np.maximum(rule.least_change, rule.share_of_detectable * seen))
    ratio = np.where(found.by_floors, found.floor_ratio, found.ratio)
    return Findings(
        up=(p_up <= rule.level) & found.up.agrees & (ratio >= 1 + least),
        down=(p_down <= rule.level) & found.down.agrees & (ratio * (1 + least) <= 1),
        blind=seen > rule.blind,
    )


def suspected(found: Comparison, rule: Rule) -> Bools:
    """Return which numbers the first stage suspects of having changed."""
    apart = np.maximum(found.ratio, 1 / found.ratio) > 1 + rule.screen_change
    return np.asarray(apart | (np.minimum(found.up.p, found.down.p) < rule.screen_p))


def detectable(scatter: Floats, launches: tuple[int, int], family: int, rule: Rule) -> Floats:
    """Return the smallest relative change that the rule finds with `rule.power`, for launches of base and of head.

    `scatter` is estimated from these launches. Infinite when they cannot alarm among `family` numbers.
    """
    found = factors(*launches, sum(launches) - 2, rule.level / family, rule)
    return _relative(found.test * scatter, np.log1p(rule.least_change) + found.median * scatter)


def screen_detectable(scatter: Floats, launches: tuple[int, int], family: int, rule: Rule) -> Floats:
    """Return the smallest relative change that the first stage suspects, and the second then finds.

    `scatter` is estimated from `launches` of the first stage.
    """
    freedom = sum(launches) - 2
    first = factors(*launches, freedom, 1.0, rule)
    second = factors(rule.launches, rule.launches, freedom, rule.level / family, rule)
    return _relative(
        second.test * scatter,
        np.log1p(rule.least_change) + second.median * scatter,
        np.log1p(rule.screen_change) + first.median * scatter,
    )


def _relative(*logarithms: Floats) -> Floats:
    """Return the largest of changes of logarithms as a relative change."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(np.expm1(np.maximum.reduce(logarithms)), nan=np.inf, posinf=np.inf))
