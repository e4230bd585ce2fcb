"""Searches in records: the next point to try, the best of those tried, and how many that was.

Nothing of this is stored. A record holds its point, its number and the request; the best is computed from the numbers
of all tries, and can be computed again.

Rule      A key at a time, in turns: along the line through the best point so far, first both ends, then golden section:
          of the two gaps beside the best, the wider one, at 38 % of the way from the best; of listed values the nearest
          untried one. Keys without numbers are lines too, a value at each whole place
Failure   A try that has no number is worse than any that has one
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from arvbench.results.energy import energy_numbers
from arvbench.results.launches import launches_of, merge_launches
from arvbench.results.schema import CaseConfig, Measured, Record
from arvbench.results.search_request import (
    Objective,
    Point,
    SearchRequest,
    is_number,
    read_objective,
    without_point,
)
from arvbench.results.statistics import find_timing, images_per_second, milliseconds

GOLDEN: Final = (3 - math.sqrt(5)) / 2
UNITS: Final[Mapping[str, str]] = {
    "images/s": "images/s",
    "latency": "ms per call",
    "memory": "MiB",
    "cache": "MiB",
    "energy": "J/image",
}
MARK: Final = " · "
"""Text between the name of a case and what it is to its search."""
_AMOUNTS: Final = ("budget", "tries", "confirm")
"""Fields of a search that say how much of it is asked for: a longer one goes on from the tries of a shorter one."""
_MIB = 2**20
_NUMBER: Final = re.compile(r" #\d+$")
_Place = tuple[int, ...]
"""A point by the index of its value on every axis."""


def next_point(request: SearchRequest, tried: Sequence[tuple[Point, float | None]]) -> Point | None:
    """Return the point to try after those tried, with their values of the objective; None when none is left."""
    axes = request.axes
    if not tried:
        return tuple(axis[0] for axis in axes)
    if len(tried) >= request.most:
        return None
    sign = 1 if read_objective(request.objective).better == "lower" else -1
    places = [tuple(axis.index(value) for axis, value in zip(axes, point, strict=True)) for point, _ in tried]
    losses = [math.inf if value is None else sign * value for _, value in tried]
    best = places[losses.index(min(losses))]
    known = set(places)
    for turn in range(len(axes)):
        key = (len(tried) - 1 + turn) % len(axes)
        on_line = {place[key] for place in known if _same_but(key, place, best)}
        found = _on_line(_positions(axes[key]), on_line, best[key])
        if found is not None:
            return _point(axes, (*best[:key], found, *best[key + 1 :]))
    free = (place for place in itertools.product(*map(range, map(len, axes))) if place not in known)
    return _point(axes, min(free, key=lambda place: (sum(map(abs, map(int.__sub__, place, best))), place)))


def _same_but(key: int, one: _Place, other: _Place) -> bool:
    return one[:key] == other[:key] and one[key + 1 :] == other[key + 1 :]


def _point(axes: Sequence[Sequence[Any]], place: _Place) -> Point:
    return tuple(axis[index] for axis, index in zip(axes, place, strict=True))


def _positions(axis: Sequence[Any]) -> Sequence[float]:
    return axis if all(map(is_number, axis)) else range(len(axis))


def _on_line(positions: Sequence[float], tried: set[int], best: int) -> int | None:
    """Return the index to try next on a line through the best; None when all of it are tried."""
    for end in (0, len(positions) - 1):
        if end not in tried:
            return end
    below = max((index for index in tried if index < best), default=best)
    above = min((index for index in tried if index > best), default=best)
    gaps = [other for other in (below, above) if abs(other - best) > 1]
    if gaps:
        other = max(gaps, key=lambda index: abs(positions[index] - positions[best]))
        aim = positions[best] + GOLDEN * (positions[other] - positions[best])
        free: Iterable[int] = range(min(best, other) + 1, max(best, other))
    else:
        aim, free = positions[best], (index for index in range(len(positions)) if index not in tried)
    return min(free, key=lambda index: (abs(positions[index] - aim), index), default=None)


def value_of(record: Record, objective: Objective) -> float | None:
    """Return what a record, or its launches as one, says of an objective; None for a failure and for no number."""
    outcome = record.outcome
    if not isinstance(outcome, Measured):
        return None
    if objective.is_metric:
        values = [
            quality.value
            for quality in outcome.quality
            if quality.metric == objective.name and objective.protocol in (None, quality.protocol_name)
        ]
        value = values[-1] if values else None
    else:
        value = _measured(outcome, objective.name)
    return value if value is not None and math.isfinite(value) else None


def _measured(outcome: Measured, name: str) -> float | None:
    timing = find_timing(outcome, "images")
    match name:
        case "images/s":
            rate = images_per_second(timing) if timing is not None else None
            return rate.value if rate is not None else None
        case "latency":
            return milliseconds(timing).value if timing is not None else None
        case "memory":
            return None if outcome.memory.peak_bytes is None else outcome.memory.peak_bytes / _MIB
        case "cache":
            return None if outcome.memory.cache_live_bytes is None else outcome.memory.cache_live_bytes / _MIB
        case _:
            numbers = energy_numbers(outcome.energy) if outcome.energy is not None else None
            return numbers.net_j if numbers is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The tries of one search, in order, and what follows from them."""

    request: SearchRequest
    tries: tuple[Record, ...]
    """Launches of a try as one; those that ended differently stay apart."""
    confirmations: tuple[Record, ...]

    @classmethod
    def of(cls, records: Iterable[Record], request: SearchRequest) -> Search:
        """Make a search of its records, launches merged."""
        ordered = sorted(records, key=lambda record: _request(record).number)
        return cls(
            request=request,
            tries=tuple(record for record in ordered if not _request(record).confirmation),
            confirmations=tuple(record for record in ordered if _request(record).confirmation),
        )

    @property
    def objective(self) -> Objective:
        return read_objective(self.request.objective)

    @property
    def count(self) -> int:
        """The k of "best of k": tries there are, or were to be; a lost record does not make a choice more honest."""
        return max(self.recorded, *(_request(record).tries for record in self.tries))

    @property
    def recorded(self) -> int:
        """Number of points with records."""
        return len(self.scored())

    @property
    def best(self) -> Record | None:
        """The try with the best number, of equal ones the first; None when no try has one."""
        sign = 1 if self.objective.better == "lower" else -1
        known = [(sign * value, place) for place, (_, value) in enumerate(self.scored()) if value is not None]
        point = self.scored()[min(known)[1]][0] if known else None
        return next((record for record in self.tries if self.point_of(record) == point), None)

    def point_of(self, record: Record) -> Point:
        """Return the values of the searched keys in a record."""
        return self.request.point_of(dict(record.case))

    def scored(self) -> list[tuple[Point, float | None]]:
        """Return the points with their values, in order; None where there is none, or where a launch failed."""
        values: dict[Point, list[float | None]] = {}
        for record in self.tries:
            values.setdefault(self.point_of(record), []).append(value_of(record, self.objective))
        return [(point, None if None in found else found[-1]) for point, found in values.items()]

    @property
    def confirmed(self) -> Record | None:
        """The confirmation of the best point; None where there is none."""
        point = self.point_of(self.best) if self.best is not None else None
        return next((record for record in self.confirmations if self.point_of(record) == point), None)

    def mark(self, record: Record) -> str:
        """Say what a record is to the search: "best of 5", "try 2 of 5", "confirms best of 5"."""
        best, number = self.best, _request(record).number
        lost = f" ({self.recorded} recorded)" if self.recorded < self.count else ""
        of_best = best is not None and self.point_of(record) == self.point_of(best)
        if record in self.confirmations:
            return f"confirms best of {self.count}{lost}" if of_best else f"confirms try {number}"
        return f"best of {self.count}{lost}" if of_best else f"try {number} of {self.count}"


def _request(record: Record) -> SearchRequest:
    assert record.case.search is not None
    return record.case.search


def identity_of(case: CaseConfig) -> dict[str, Any]:
    """Return the fields of a case as JSON has them, without those that only say how much of it is asked for."""
    fields = case.model_dump(mode="json", exclude={"launches"})
    if case.search is not None:
        fields["search"] = {key: value for key, value in fields["search"].items() if key not in _AMOUNTS}
    return fields


def search_key(record: Record, *, with_quality: bool = True) -> str | None:
    """Return what the tries of one search have in common; None for a case of no search.

    Another source or other libraries make another search: its numbers do not compare with earlier ones. Later launches
    of a try ask for no quality.
    """
    if record.case.search is None:
        return None
    environment = record.environment
    left_out = {"launches", "sample_sheet"} if with_quality else {"launches", "sample_sheet", "quality"}
    case = without_point(record.case.model_dump(mode="json", exclude=left_out))
    source = [environment.source_sha256, environment.libraries]
    return json.dumps([record.suite, _numbered(record), case, _processor(record), source], sort_keys=True)


def search_family(record: Record) -> str | None:
    """Return what stays of a search when its values, its source or its libraries change; None for a case of none."""
    if record.case.search is None:
        return None
    case = without_point(record.case.model_dump(mode="json", exclude={"launches", "sample_sheet", "quality"}))
    case["search"]["over"] = list(case["search"]["over"])
    return json.dumps([record.suite, _numbered(record), case, _processor(record)], sort_keys=True)


def _processor(record: Record) -> str:
    gpu = record.environment.gpu
    return record.environment.cpu if gpu is None else gpu.name


def _numbered(record: Record) -> str:
    """Return the "#2" of a case whose name had been taken; "" for another."""
    found = _NUMBER.search(record.case_id)
    return found[0] if found else ""


def searches(records: Iterable[Record]) -> list[Search]:
    """Return the searches in records whose launches are merged, each in the order of its tries."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if (key := search_key(record)) is not None:
            groups.setdefault(key, []).append(record)
    found = [Search.of(members, _request(members[-1])) for members in groups.values()]
    return [search for search in found if search.tries]


def marks(records: Iterable[Record]) -> dict[str, str]:
    """Map ids of records to what they are to their search, such as "best of 5"; cases of no search are left out."""
    found: dict[str, str] = {}
    for search in searches(merge_launches(records)):
        for record in (*search.tries, *search.confirmations):
            found |= dict.fromkeys((launch.record_id for launch in launches_of(record)), search.mark(record))
    return found


def with_marks(records: Sequence[Record]) -> list[Record]:
    """Return the records, those of searches with what they are behind their names: "best of 5".

    Whatever shows such a record by its name says it. The result is read, and never written.
    """
    found = marks(records)
    return [
        record.model_copy(update={"case_id": f"{record.case_id}{MARK}{found[record.record_id]}"})
        if record.record_id in found
        else record
        for record in records
    ]
