"""History of numbers over many commits, as `arvbench report --history` finds it and as reports and exports read it.

A series is of one case on one hardware class, taken by one version of the harness and, for quality, under one protocol
id. Numbers that differ in any of these never share one.

Units    times in ns, memory in bytes, quality in the metric's own; ratios are after over before
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from arvbench.results.machine import Frozen
from arvbench.results.moments import Moment
from arvbench.results.verdict import Cause

HISTORY_FORMAT: Final = 1
"""Version of the form; raised when a field changes its meaning."""


class Point(Frozen):
    """A number at one commit."""

    commit: str
    at: Moment
    """Begin of its first measurement, by the clock of the machine."""
    value: float
    """Median over the launches; mean over the run seeds of a quality number."""
    values: tuple[float, ...]
    """One per launch or run seed."""
    record_ids: tuple[str, ...]


class ChangePoint(Frozen):
    """Commit at which a series changes."""

    index: int
    """Place of the first point after the change."""
    commit: str
    after: str
    """Last measured commit before; the change lies behind it."""
    before_value: float
    after_value: float
    """Medians of the points up to the neighbouring change points."""
    p: float | None
    """Chance of as good a split in a random order of the points; None for an exact number."""
    cause: Cause
    reason: str

    @property
    def ratio(self) -> float | None:
        """After over before; None where before is 0."""
        return self.after_value / self.before_value if self.before_value else None


class Anchor(Frozen):
    """Value of a stored baseline: what later commits are judged against."""

    name: Literal["accepted", "release"]
    value: float
    at: Moment
    commit: str | None


class NumberHistory(Frozen):
    """One series."""

    hardware: str
    method: str
    """Short digest of the harness that took the numbers, or its version where the records do not know the digest."""
    case: str
    number: str
    kind: Literal["time", "memory", "cache", "quality"]
    unit: str
    basis: str
    """All that the points share besides: images per call and clock, or protocol id, samples and run seeds."""
    lower_is_better: bool
    exact: bool
    points: tuple[Point, ...]
    """In the order of commits."""
    change_points: tuple[ChangePoint, ...] = ()
    drift: float | None = None
    """Change from first to last of a series that a line fits better than steps, relative; None for others."""
    anchors: tuple[Anchor, ...] = ()
    enough: bool = True
    """False when even the clearest step in so few points could not be told from chance."""

    def since(self, name: str) -> float | None:
        """Return the newest value over that of an anchor; None without it."""
        anchor = next((one for one in self.anchors if one.name == name), None)
        return None if anchor is None or not anchor.value or not self.points else self.points[-1].value / anchor.value

    def is_worse(self, ratio: float) -> bool:
        """Return whether a ratio of this number is a change for the worse."""
        return ratio > 1 if self.lower_is_better else ratio < 1


class History(Frozen):
    """All series of some records, and how change points were told from chance."""

    format: Literal[1] = HISTORY_FORMAT
    commits: tuple[str, ...]
    """In order, the oldest first."""
    order: str
    """Source of that order, in words."""
    numbers: tuple[NumberHistory, ...]
    level: float
    """Most probable share of pages of unchanged code with any mark, over all `tested` series (Holm)."""
    tested: int
    """Series that vary and have enough points."""
    least_change: float
    """Relative change below which nothing is marked."""
    notices: tuple[str, ...] = ()
    """Records that were left out, and why."""

    def marked(self) -> Iterator[tuple[NumberHistory, ChangePoint]]:
        """Yield every change point with its series."""
        for number in self.numbers:
            for change in number.change_points:
                yield number, change
