"""Exact tests on launches, many numbers at a time.

Shapes     `base` and `head` have the launches of a number in their last axis; all other axes are numbers, or draws of
           a simulation. Values are positive.
Direction  "up" asks whether head is larger than base, "down" whether it is smaller
Tests      Mann-Whitney compares all pairs of launches. The precedence test compares second-smallest launches: its
           p is the probability that at least as many launches of the other side come before as did. Both are exact
           under "which launch belongs to which side makes no difference", whatever the distribution;
           Mann-Whitney up to `MOST_EXACT_PAIRS`
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Final

import numpy as np
import numpy.typing as npt

from arvbench.harness.check.rule import Rule

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MOST_EXACT_PAIRS: Final = 10_000
"""Pairs of launches up to which Mann-Whitney is exact. With more, memory and time of the exact test grow beyond those
of the measurement, and its p is that of the normal distribution, with a correction for continuity."""
_DRAWS = 20_000
"""Simulated comparisons behind a factor of the smallest detectable change; 0.3 % of its value."""
_MOST_DIFFERENCES = 2 * 10**8
"""Differences of launches in all those comparisons; of many launches, fewer are drawn."""
_DIFFERENCES_AT_ONCE = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """One direction of a comparison."""

    p: Floats
    """Of each number alone, not adjusted for the others."""
    agrees: Bools
    """True where superiority, or with two modes the second-smallest launches, show the change too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of head with base, by number."""

    ratio: Floats
    """Ratio of medians, head over base."""
    floor_ratio: Floats
    """Ratio of the second-smallest launches."""
    scatter: Floats
    """Standard deviation between launches of one side, relative, both sides pooled."""
    two_modes: Bools
    by_floors: Bools
    """True where two modes are judged by their second-smallest launches alone."""
    up: Direction
    down: Direction


def compare(base: Floats, head: Floats, rule: Rule) -> Comparison:
    """Compare the launches of both sides; at least 2 on each."""
    modes = two_modes(base, rule) | two_modes(head, rule)
    return Comparison(
        ratio=np.asarray(np.median(head, axis=-1) / np.median(base, axis=-1)),
        floor_ratio=np.asarray(second(head) / second(base)),
        scatter=scatter(base, head),
        two_modes=modes,
        by_floors=modes & (min(base.shape[-1], head.shape[-1]) >= rule.floor_launches),
        up=_direction(base, head, modes, rule),
        down=_direction(head, base, modes, rule),
    )


def _direction(low: Floats, high: Floats, modes: Bools, rule: Rule) -> Direction:
    """Test whether `high` is larger than `low`.

    With two modes, the median and the pairs follow the share of slow launches, which is luck: the second-smallest
    launches have to differ as well, and from `rule.floor_launches` on they are the test.
    """
    statistic, p = _mann_whitney(low, high)
    superior = statistic >= rule.superiority * low.shape[-1] * high.shape[-1]
    floors = second(high) >= second(low) * (1 + rule.least_change)
    if min(low.shape[-1], high.shape[-1]) >= rule.floor_launches:
        return Direction(p=np.where(modes, precedence_p(low, high), p), agrees=np.where(modes, floors, superior))
    return Direction(p=p, agrees=superior & (floors | ~modes))


def _mann_whitney(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return the pairs of launches in which `high` is larger, and the p of that many."""
    if low.ndim == high.ndim == 1 and low.size * high.size <= MOST_EXACT_PAIRS:
        # scipy takes milliseconds for one number, whose p stands in a table.
        apart = np.sign(high[:, None] - low)
        statistic = np.asarray((apart.sum() + apart.size) / 2)
        return statistic, np.asarray(p_of_statistics(low.size, high.size)[int(statistic)])
    from scipy.stats import mannwhitneyu

    method = "exact" if low.shape[-1] * high.shape[-1] <= MOST_EXACT_PAIRS else "asymptotic"
    test = mannwhitneyu(high, low, alternative="greater", method=method, axis=-1)
    return np.asarray(test.statistic), np.asarray(test.pvalue)


def second(values: Floats) -> Floats:
    """Return the second-smallest launch: one lucky launch does not move it, and slow ones do not either."""
    return np.asarray(np.partition(values, 1, axis=-1)[..., 1])


def precedence_p(low: Floats, high: Floats) -> Floats:
    """Return the exact p of as many launches of `low` below the second-smallest of `high`."""
    from scipy.stats import hypergeom

    below = (low < second(high)[..., None]).sum(axis=-1)
    launches = low.shape[-1] + high.shape[-1]
    return np.asarray(hypergeom.cdf(1, launches, high.shape[-1], below + 1))


def two_modes(values: Floats, rule: Rule) -> Bools:
    """Return whether the launches fall into two groups; never for fewer than 4."""
    if values.shape[-1] < 4:
        return np.zeros(values.shape[:-1], bool)
    ordered = np.sort(values, axis=-1)
    gaps = np.diff(ordered, axis=-1)
    widest, below = gaps.max(axis=-1), gaps.argmax(axis=-1)[..., None]
    fast = np.take_along_axis(ordered, below, axis=-1)[..., 0] - ordered[..., 0]
    slow = ordered[..., -1] - np.take_along_axis(ordered, below + 1, axis=-1)[..., 0]
    apart = widest > rule.gap * np.maximum(fast, slow)
    return np.asarray(apart & (widest > rule.gap_change * np.median(ordered, axis=-1)))


def slow_share(values: Floats, rule: Rule) -> float:
    """Return the share of launches above the largest gap; 0 for launches of one mode. `values` has one axis."""
    if not two_modes(values, rule):
        return 0.0
    gaps = np.diff(np.sort(values))
    return float(1 - (int(gaps.argmax()) + 1) / len(values))


def scatter(base: Floats, head: Floats) -> Floats:
    """Return the standard deviation of the logarithms within a side, pooled over both."""
    freedom = base.shape[-1] + head.shape[-1] - 2
    squares = sum(side.shape[-1] * np.log(side).var(axis=-1) for side in (base, head))
    return np.asarray(np.sqrt(squares / freedom))


def holm(p: Floats, family: int) -> Floats:
    """Adjust the p of the last axis by Holm's method, in a family of `family` numbers; the others count as p = 1.

    Serves audits and simulations, thousands of families at a time: statsmodels, which the verdicts use, takes one
    family per call and collects garbage in each, for 32 ms. Equal to it to the last bit.
    """
    order = np.argsort(p, axis=-1)
    steps = family - np.arange(p.shape[-1])
    ordered = np.maximum.accumulate(np.take_along_axis(p, order, axis=-1) * steps, axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(ordered, 1.0), axis=-1)
    return adjusted


@cache
def p_of_statistics(low: int, high: int) -> Floats:
    """Return the Mann-Whitney p of every statistic 0..low*high, for `low` and `high` launches without ties."""
    u = np.arange(low * high + 1)
    if low * high > MOST_EXACT_PAIRS:
        from scipy.stats import norm

        spread = np.sqrt(low * high * (low + high + 1) / 12)
        return np.asarray(norm.sf((u - low * high / 2 - 0.5) / spread))
    # Launch j of `high` is placed so that it is larger than as many of `low` as its part of u says.
    beats = u[:, None] // high + (np.arange(high) < u[:, None] % high)
    placed = beats - 0.5 + np.arange(high) / (4 * high)
    return _mann_whitney(np.arange(low)[None].astype(float), placed)[1]


def ratio_interval(base: Floats, head: Floats) -> tuple[float, float] | None:
    """Return the 95 % interval of the ratio head over base (Hodges-Lehmann); None when the launches are too few.

    It is exact where head's launches are distributed as base's times a factor. `base` and `head` have one axis.
    """
    p = p_of_statistics(len(base), len(head))
    outside = np.flatnonzero(p[::-1] <= 0.025)
    if not len(outside):
        return None
    rank = int(outside[-1])
    ratios = np.sort((head[:, None] / base[None, :]).ravel())
    middle = float(np.median(head) / np.median(base))
    return min(float(ratios[rank]), middle), max(float(ratios[-1 - rank]), middle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Smallest detectable change over the scatter between launches."""

    test: float
    """Of the exact test with its superiority."""
    median: float
    """Of the error of the ratio of medians."""


@cache
def factors(base: int, head: int, freedom: int, level: float, rule: Rule) -> Factors:
    """Return the factors for `base` and `head` launches, a scatter with `freedom` degrees and a p of at most `level`.

    Simulated on normal noise with a fixed seed: the shift at which a draw is found, over a scatter that was estimated
    independently, is largest in 2.5 % of draws for each of the two (5 % together, for a power of 95 %).
    """
    allowed = np.flatnonzero(p_of_statistics(base, head) <= level)
    if not len(allowed):
        return Factors(test=inf, median=inf)
    pairs_needed = max(int(allowed[0]), int(np.ceil(rule.superiority * base * head)))
    rng = np.random.default_rng(0)
    draws = min(_DRAWS, max(1, _MOST_DIFFERENCES // (base * head)))
    low, high = rng.standard_normal((draws, base)), rng.standard_normal((draws, head))
    estimated = np.sqrt(rng.chisquare(freedom, draws) / freedom)
    at_once = max(1, _DIFFERENCES_AT_ONCE // (base * head))
    parts = [slice(at, at + at_once) for at in range(0, draws, at_once)]
    shift = np.concatenate([_smallest_differences(low[part], high[part], pairs_needed) for part in parts])
    error = np.median(low, axis=-1) - np.median(high, axis=-1)
    test, median = (float(np.quantile(found / estimated, (1 + rule.power) / 2)) for found in (shift, error))
    return Factors(test=test, median=median)


def _smallest_differences(low: Floats, high: Floats, rank: int) -> Floats:
    """Return, for each draw, the difference of a launch of `low` and one of `high` of this rank, from 1."""
    differences = (low[:, :, None] - high[:, None, :]).reshape(len(low), -1)
    differences.partition(rank - 1, axis=-1)
    return differences[:, rank - 1].copy()
