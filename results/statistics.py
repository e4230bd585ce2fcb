"""Statistics of raw samples: medians, intervals and rates of all reports.

Definitions  median        of the raw samples of one scope; with several launches, of the medians of the launches
             interval      of that median, between two of the samples in order: it covers the median of the distribution
                           with a probability of 95 % or more, whatever the distribution (order statistics, as in Go's
                           benchstat). From 6 samples on; fewer cannot reach 95 %
             throughput    count divided by the median time; its interval is the median's, mapped likewise
             CV            coefficient of variation, standard deviation over mean: within a launch of its calls, between
                           launches of their medians
Units        _ns nanoseconds, _ms milliseconds, per second

The samples of one launch are calls of one process. Their interval holds the differences between these calls, and not
those between two starts of the program, which are usually larger: only an interval over launches holds these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from math import comb, sqrt
from statistics import fmean, median, stdev
from typing import NamedTuple

from arvbench.results.launches import samples_by_launch
from arvbench.results.schema import Measured, Timing

CONFIDENCE = 0.95
"""Least probability with which an interval covers the median."""
NS_PER_MS = 1e6
NS_PER_S = 1e9


class Estimate(NamedTuple):
    """Value with its interval. A large report asks for tens of thousands."""

    value: float
    low: float | None
    """None when there are too few samples for an interval."""
    high: float | None
    samples: int
    """Numbers that the value is the median of: calls, or launches where there are several."""
    launches: int = 1

    @property
    def level(self) -> float | None:
        """Probability with which the interval covers the median; None without an interval."""
        rank = _rank(self.samples)
        return None if self.low is None or rank is None else coverage(self.samples, rank)

    def scaled(self, factor: float) -> Estimate:
        """Convert to another unit; `factor` > 0."""
        low = None if self.low is None else self.low * factor
        high = None if self.high is None else self.high * factor
        return Estimate(self.value * factor, low, high, self.samples, self.launches)

    def rate(self, count: float) -> Estimate | None:
        """Divide `count` by this time; None when the measured time is zero."""
        if self.value <= 0 or (self.low is not None and self.low <= 0):
            return None
        low = None if self.high is None else count / self.high
        high = None if self.low is None else count / self.low
        return Estimate(count / self.value, low, high, self.samples, self.launches)


def median_interval(samples: Sequence[float]) -> Estimate:
    """Return the median with its interval; without one for fewer than 6 samples.

    Raises ValueError when there are no samples.
    """
    if not samples:
        raise ValueError("a median needs at least one sample")
    return _interval_of(tuple(samples))


@lru_cache(maxsize=2**15)
def _interval_of(samples: tuple[float, ...]) -> Estimate:
    ordered = sorted(map(float, samples))
    rank, half = _rank(len(ordered)), len(ordered) // 2
    return Estimate(
        value=ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2,
        low=None if rank is None else ordered[rank - 1],
        high=None if rank is None else ordered[-rank],
        samples=len(ordered),
    )


@cache
def _rank(samples: int) -> int | None:
    """Return the largest k for which the k-th smallest and the k-th largest sample enclose the median often enough."""
    rank = 0
    while coverage(samples, rank + 1) >= CONFIDENCE:
        rank += 1
    return rank or None


@cache
def coverage(samples: int, rank: int = 1) -> float:
    """Return how often the `rank`-th smallest and the `rank`-th largest sample enclose the median, 0..1.

    They miss it when fewer than `rank` samples lie on one side of it: twice the binomial probability of that. The range
    of all samples, rank 1, covers it with 1 - 2^(1 - samples): 75 % for 3.
    """
    missed = sum(Fraction(2 * comb(samples, fewer), 2**samples) for fewer in range(rank))
    return float(max(0, 1 - missed))


def launch_medians(timing: Timing) -> tuple[float, ...]:
    """Return the median of every launch in ns, in order."""
    return tuple(float(median(samples)) for samples in samples_by_launch(timing))


def nanoseconds(timing: Timing) -> Estimate:
    """Return the time of one call in ns: the median of the launches' medians, or of the calls of a single launch."""
    if len(samples_by_launch(timing)) == 1:
        return median_interval(timing.samples_ns)
    medians = launch_medians(timing)
    return median_interval(medians)._replace(launches=len(medians))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Coefficients of variation of one scope."""

    within: float | None
    """Of the calls of a launch, as root mean square over the launches; None when no launch has two calls."""
    between: float | None
    """Of the launches' medians; None for a single launch."""


def variation(timing: Timing) -> Variation:
    """Return how much the calls of a launch differ, and how much the launches do."""
    launches, medians = samples_by_launch(timing), launch_medians(timing)
    within = [_variance(samples) / fmean(samples) ** 2 for samples in launches if len(samples) > 1 and fmean(samples)]
    between = stdev(medians) / fmean(medians) if len(medians) > 1 and fmean(medians) else None
    return Variation(within=sqrt(fmean(within)) if within else None, between=between)


def _variance(samples: Sequence[int]) -> float:
    """Return the sample variance of whole numbers, exact before the division.

    `statistics.variance` gives the same number, by way of fractions, in ten times as long.
    """
    count, total = len(samples), sum(samples)
    return (count * sum([sample * sample for sample in samples]) - total * total) / (count * (count - 1))


def find_timing(outcome: Measured, scope: str) -> Timing | None:
    """Return the timing of `scope` that has samples, or None when it was not taken."""
    for timing in outcome.timings:
        if timing.scope == scope and timing.samples_ns:
            return timing
    return None


def timings_by_scope(outcome: Measured) -> dict[str, Timing]:
    """Map every scope to what `find_timing` returns for it."""
    return {timing.scope: timing for timing in reversed(outcome.timings) if timing.samples_ns}


def milliseconds(timing: Timing) -> Estimate:
    """Return the time of one call (`timing.images` images) in ms."""
    return nanoseconds(timing).scaled(1 / NS_PER_MS)


def images_per_second(timing: Timing) -> Estimate | None:
    """Divide images by the median time; None when the timing counts none."""
    return nanoseconds(timing).scaled(1 / NS_PER_S).rate(timing.images) if timing.images > 0 else None


class Times(NamedTuple):
    """Time of one call, and what follows from it."""

    milliseconds: Estimate
    milliseconds_per_image: Estimate | None
    """None for a scope that counts no images."""
    images_per_second: Estimate | None
    forward_rows_per_second: Estimate | None
    """Transformer rows (guidance doubles them) over the median time; None for a scope that runs none."""


def times_of(timing: Timing) -> Times:
    """Return the time of one call with all that follows from it, its median taken once."""
    call, images, rows = nanoseconds(timing), timing.images, timing.forward_rows
    milliseconds, seconds = call.scaled(1 / NS_PER_MS), call.scaled(1 / NS_PER_S)
    return Times(
        milliseconds,
        milliseconds.scaled(1 / images) if images > 0 else None,
        seconds.rate(images) if images > 0 else None,
        seconds.rate(rows) if rows > 0 else None,
    )
