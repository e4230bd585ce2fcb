"""Numbers of the newest commit, for tools that take one commit at a time, under names that no two series share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from arvbench.reports.numbers import plain
from arvbench.results.history import History, NumberHistory, Point


class Number(NamedTuple):
    """A number of the newest commit."""

    series: NumberHistory
    point: Point

    @property
    def benchmark(self) -> str:
        """Case with its machine and harness: numbers of others are other benchmarks."""
        return plain(f"{self.series.case} / {self.series.hardware} / harness {self.series.method}")

    @property
    def measure(self) -> str:
        """Number; of quality, with its protocol id, samples and seeds."""
        basis = f" ({self.series.basis})" if self.series.kind == "quality" else ""
        return plain(f"{self.series.number}{basis}")


def newest_numbers(history: History) -> Iterator[Number]:
    """Yield the numbers of the newest commit, in the order of the series."""
    for series in history.numbers:
        if series.points and series.points[-1].commit == history.commits[-1]:
            yield Number(series, series.points[-1])
