"""Work of a run over a suite: what is done, what is left, and how long that takes at the speed so far.

Work is counted in images that the models sample. A call costs as much as CALL_IMAGES images more than it has: on a CPU
and demo models, one image takes an eighth of the time of 50.

Units    _s seconds
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from arvbench.harness.jobs import Event, Part, has_second_part
from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.measure.timing import STEADY_CALLS
from arvbench.harness.run.crew import cores_taken
from arvbench.harness.suites.searches import further
from arvbench.harness.suites.suite import Case
from arvbench.results.schema import CaseConfig

CALL_IMAGES = 8
OTHER_CALLS = 3
"""Time of the correctness check and the memory pass, in calls."""
SHEET_ROWS = 10
_REACHED = {"warm-up": (0.2, 0.4), "timing": (0.4, 0.9), "quality: samples": (0.0, 0.75)}
"""Phase with a count -> share of its part that is done at its begin and at its end."""


class Work:
    """Work of a suite by case and part. `done` and `total` do not include what was measured before."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._begin = time.monotonic()
        self._cores = usable_cores()
        self._known: set[str] = set()
        self._parts: dict[tuple[str, Part], float] = {}
        self._coming: list[float] = []
        """Work of the tries of searches whose points are not known yet, as that of their first ones."""
        for case in cases:
            self._add(case)
        for case in cases:
            if case.config.search is not None:
                work = sum(self._parts.get((case.title, part), 0.0) for part in Part)
                self._coming += [work] * further(case, found=1)
        self._shares: dict[tuple[str, Part], float] = {}
        """Part of a case that was begun -> share that is done."""

    @property
    def total(self) -> float:
        return sum(self._parts.values()) + sum(self._coming)

    @property
    def coming(self) -> int:
        """Number of tries whose points are not known yet."""
        return len(self._coming)

    @property
    def done(self) -> float:
        return sum(self._parts.get(part, 0.0) * share for part, share in self._shares.items())

    def left_s(self) -> float | None:
        """Return the time that the rest takes; None while there is nothing to tell it from."""
        done = self.done
        return (time.monotonic() - self._begin) * (self.total - done) / done if done else None

    def begin(self, case: Case, part: Part) -> None:
        self._meet(case)
        self._shares[case.title, part] = 0.0

    def advance(self, case: Case, part: Part, event: Event) -> None:
        """Take note of an event of a begun part."""
        first, last = _REACHED.get(event.phase, (0.0, 0.0))
        share = first + (last - first) * (event.done / event.total if event.total else 0.0)
        key = case.title, part
        self._shares[key] = max(self._shares.get(key, 0.0), min(share, 1.0))

    def end(self, case: Case, part: Part) -> None:
        self._shares[case.title, part] = 1.0

    def skip(self, case: Case, *parts: Part) -> None:
        """Take parts of a case, or all of it, out of the work."""
        self._meet(case)
        for part in parts or tuple(Part):
            self._parts.pop((case.title, part), None)

    def _add(self, case: Case) -> None:
        self._known.add(case.title)
        self._parts[case.title, Part.SPEED] = speed_work(case.config)
        if has_second_part(case.config):
            self._parts[case.title, Part.QUALITY] = quality_work(case.config, self._cores)

    def _meet(self, case: Case) -> None:
        """Take note of a try whose point is known by now, in the place of one to come."""
        if case.title not in self._known:
            self._add(case)
            del self._coming[:1]


def speed_work(case: CaseConfig) -> float:
    """Return the work of correctness, times and memory."""
    return (STEADY_CALLS + case.repeats + OTHER_CALLS) * (CALL_IMAGES + case.batch)


def quality_work(case: CaseConfig, cores: int) -> float:
    """Return the work of quality and sample sheet, shared by as many cases as run side by side."""
    images = case.quality.images if case.quality else case.sample_sheet * SHEET_ROWS
    calls = -(-images // case.batch)
    return calls * (CALL_IMAGES + case.batch) * cores_taken(case, cores) / cores


def in_minutes(seconds: float) -> str:
    """Return M:SS, or H:MM:SS from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
