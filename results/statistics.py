"""Statistics of raw samples: medians, intervals and rates of all reports.

Definitions  median        of the raw samples of one scope
             interval      95 % percentile bootstrap interval of that median (seeded, hence reproducible)
             throughput    count divided by the median time; its interval is the median's, mapped likewise
Units        _ns nanoseconds, _ms milliseconds, per second
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from arvbench.results.schema import Measured, Timing

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 20240403
NS_PER_MS = 1e6
NS_PER_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Value with its interval."""

    value: float
    low: float | None
    """None when a single sample leaves the interval unknown."""
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


def median_interval(
    samples: Sequence[float], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """Return the median with its percentile bootstrap interval; equal samples give equal intervals.

    Raises ValueError when there are no samples.
    """
    return _median_interval(tuple(samples), confidence, resamples, seed)


@lru_cache(maxsize=4096)
def _median_interval(samples: tuple[float, ...], confidence: float, resamples: int, seed: int) -> Estimate:
    if not samples:
        raise ValueError("a median needs at least one sample")
    values = np.asarray(samples, dtype=np.float64)
    if len(values) == 1:
        return Estimate(value=float(values[0]), low=None, high=None, samples=1)
    draws = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    medians = np.median(values[draws], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Estimate(value=float(np.median(values)), low=float(low), high=float(high), samples=len(values))


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
