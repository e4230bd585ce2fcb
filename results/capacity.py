"""Search for the largest batch: the batches tried, and what follows from them.

The record keeps every tried batch with its raw numbers; line, maximum and knee are computed from them here.

Units    _ns nanoseconds, _bytes bytes
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from arvbench.results.machine import Frozen

KNEE_SHARE: Final = 0.95
"""The knee is the smallest batch with this share of the best throughput."""
MISS_SHARE: Final = 0.10
"""A maximum that lies farther from the fitted line is not called one: memory was lost between blocks."""


class Probe(Frozen):
    """One tried batch, in a process of its own."""

    batch: int
    status: Literal["ok", "oom", "incorrect", "timeout", "error", "unsupported", "skipped"]
    reason: str = ""
    """Why there are no numbers."""
    held_bytes: int | None = None
    """Most that the process held: reserved by CUDA's allocator, or the resident set; what the limit is a limit of."""
    cache_live_bytes: int | None = None
    samples_ns: tuple[int, ...] = ()
    """Times of the calls, scope images."""
    allocation_retries: int | None = None

    @property
    def images_per_second(self) -> float | None:
        """Throughput at the median time; None without times."""
        middle = statistics.median(self.samples_ns) if self.samples_ns else 0
        return self.batch / (middle / 1e9) if middle > 0 else None


class Line(NamedTuple):
    """Least-squares line through the held bytes of the batches that ran."""

    fixed_bytes: float
    """At batch 0: libraries and weights."""
    bytes_per_image: float
    error_bytes: float
    """Largest distance of a batch from the line."""

    def at(self, batch: int) -> float:
        return self.fixed_bytes + self.bytes_per_image * batch

    def batch_within(self, limit_bytes: int) -> int | None:
        """Largest batch that the line allows; None for a line that does not rise."""
        if self.bytes_per_image <= 0:
            return None
        return max(0, math.floor((limit_bytes - self.fixed_bytes) / self.bytes_per_image))


class Capacity(Frozen):
    """A search: doubled until a batch does not fit, then halved between the last two."""

    limit_bytes: int | None
    """Limit of `held_bytes`; None where the system does not tell."""
    ended: Literal["found", "most", "stopped"]
    """"found": one image more does not fit. "most": nothing failed up to the largest batch asked for. "stopped": a
    batch failed for another reason than memory, or the time was up."""
    probes: tuple[Probe, ...]
    """In the order tried."""

    @property
    def fitting(self) -> tuple[Probe, ...]:
        """The batches that ran, from the smallest on."""
        return tuple(sorted((probe for probe in self.probes if probe.status == "ok"), key=lambda probe: probe.batch))

    @property
    def max_batch(self) -> int | None:
        """Largest batch that ran."""
        return max((probe.batch for probe in self.fitting), default=None)

    @property
    def too_large(self) -> int | None:
        """Smallest batch that did not fit."""
        return min((probe.batch for probe in self.probes if probe.status == "oom"), default=None)

    @property
    def retries(self) -> int | None:
        """Retries of CUDA's allocator over all batches; None where it does not count."""
        counts = [probe.allocation_retries for probe in self.probes if probe.allocation_retries is not None]
        return sum(counts) if counts else None

    def line(self) -> Line | None:
        """Fit the line; None for fewer than three batches."""
        points = [(probe.batch, probe.held_bytes) for probe in self.fitting if probe.held_bytes is not None]
        if len(points) < 3:
            return None
        slope, fixed = statistics.linear_regression(*zip(*points, strict=True))
        error = max(abs(held - fixed - slope * batch) for batch, held in points)
        return Line(fixed, slope, error)

    def miss(self, line: Line | None) -> float | None:
        """Distance between the largest batch of the fitted `line` and the one found, as a share of it; None without
        both.
        """
        most, beyond = self.max_batch, self.too_large
        fitted = line.batch_within(self.limit_bytes) if line is not None and self.limit_bytes is not None else None
        if fitted is None or most is None or beyond is None:
            return None
        return max(most - fitted, fitted - (beyond - 1), 0) / most

    def verdict(self, line: Line | None) -> str:
        """Say what the largest batch that ran is; `line` is the fitted one."""
        miss, retries = self.miss(line), self.retries
        if self.ended == "stopped":
            last = self.probes[-1]
            return f"at least: batch {last.batch} ended with {last.status}"
        if self.ended == "most":
            return "at least: the search ended there"
        if miss is None:
            return "not called a maximum: too few batches for a line"
        if miss > MISS_SHARE:
            lost = f", {retries} allocation retries" if retries else ""
            return f"not called a maximum: the line misses it by {100 * miss:.0f} %{lost}"
        return "maximum"

    def rates(self) -> list[Rate]:
        """Return the throughput of the batches that were timed, from the smallest on."""
        return [Rate(probe, rate) for probe in self.fitting if (rate := probe.images_per_second) is not None]


class Rate(NamedTuple):
    """Throughput of a batch."""

    probe: Probe
    images_per_second: float


def knee_of(rates: Sequence[Rate]) -> Rate | None:
    """Return the smallest batch with `KNEE_SHARE` of the best throughput."""
    best = max((rate.images_per_second for rate in rates), default=0.0)
    return next((rate for rate in rates if rate.images_per_second >= KNEE_SHARE * best), None)


def best_of(rates: Sequence[Rate]) -> Rate | None:
    """Return the batch with the best throughput."""
    return max(rates, key=lambda rate: rate.images_per_second, default=None)
