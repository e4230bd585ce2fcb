"""Statistics of raw samples: medians, intervals and rates of all reports.

Definitions  median        of the raw samples of one scope
             interval      of that median, between two of the samples in order: it covers the median of the distribution
                           with a probability of 95 % or more, whatever the distribution (order statistics, as in Go's
                           benchstat). From 6 samples on; fewer cannot reach 95 %
             throughput    count divided by the median time; its interval is the median's, mapped likewise
Units        _ns nanoseconds, _ms milliseconds, per second

The samples of a record are calls of one process. Its interval holds the differences between these calls, and not those
between two starts of the program, which are usually larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import comb
from statistics import median

from arvbench.results.schema import Measured, Timing

CONFIDENCE = 0.95
"""Least probability with which an interval covers the median."""
NS_PER_MS = 1e6
NS_PER_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Value with its interval."""

    value: float
    low: float | None
    """None when there are too few samples for an interval."""
    high: float | None
    samples: int

    def scaled(self, factor: float) -> Estimate:
        """Convert to another unit; `factor` > 0."""
        low = None if self.low is None else self.low * factor
        high = None if self.high is None else self.high * factor
        return Estimate(value=self.value * factor, low=low, high=high, samples=self.samples)

    def rate(self, count: float) -> Estimate | None:
        """Divide `count` by this time; None when the measured time is zero."""
        if self.value <= 0 or (self.low is not None and self.low <= 0):
            return None
        low = None if self.high is None else count / self.high
        high = None if self.low is None else count / self.low
        return Estimate(value=count / self.value, low=low, high=high, samples=self.samples)


def median_interval(samples: Sequence[float]) -> Estimate:
    """Return the median with its interval; without one for fewer than 6 samples.

    Raises ValueError when there are no samples.
    """
    if not samples:
        raise ValueError("a median needs at least one sample")
    ordered = sorted(map(float, samples))
    rank = _rank(len(ordered))
    return Estimate(
        value=median(ordered),
        low=None if rank is None else ordered[rank - 1],
        high=None if rank is None else ordered[-rank],
        samples=len(ordered),
    )


@cache
def _rank(samples: int) -> int | None:
    """Return the largest k for which the k-th smallest and the k-th largest sample enclose the median often enough.

    The median is missed when fewer than k samples lie on one side of it: twice the binomial probability of that.
    """
    missed, rank = Fraction(0), 0
    while True:
        missed += Fraction(2 * comb(samples, rank), 2**samples)
        if 1 - missed < CONFIDENCE:
            return rank or None
        rank += 1


def find_timing(outcome: Measured, scope: str) -> Timing | None:
    """Return the timing of `scope` that has samples, or None when it was not taken."""
    return next((t for t in outcome.timings if t.scope == scope and t.samples_ns), None)


def milliseconds(timing: Timing) -> Estimate:
    """Return the time of one call (`timing.images` images) in ms."""
    return median_interval(timing.samples_ns).scaled(1 / NS_PER_MS)


def milliseconds_per_image(timing: Timing) -> Estimate | None:
    """Return the time of one call divided by its images, in ms; None for a scope that counts no images."""
    return milliseconds(timing).scaled(1 / timing.images) if timing.images > 0 else None


def images_per_second(timing: Timing) -> Estimate | None:
    """Divide images by the median time; None when the timing counts none."""
    return median_interval(timing.samples_ns).scaled(1 / NS_PER_S).rate(timing.images) if timing.images > 0 else None


def forward_rows_per_second(timing: Timing) -> Estimate | None:
    """Divide transformer rows by the median time (guidance doubles rows); None for a scope that runs none."""
    rows = timing.forward_rows
    return median_interval(timing.samples_ns).scaled(1 / NS_PER_S).rate(rows) if rows > 0 else None
