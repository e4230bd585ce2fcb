"""Series of a history: gated numbers of every commit, joined where all else is equal.

A point is a commit measured on one hardware class by one version of the harness. Launches of all of its runs count, and
the point is their median; of a quality number, the mean of its run seeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, median

from arvbench.harness.check.gated import Judgement, Series
from arvbench.harness.check.numbers import gated_numbers
from arvbench.harness.history.read import Dated
from arvbench.results.comparison import comparison_key, hardware_class
from arvbench.results.history import NumberHistory, Point
from arvbench.results.schema import Record


@dataclass(frozen=True, slots=True)
class Measured:
    """A series with what its judgement needs and its record does not hold."""

    history: NumberHistory
    judgement: Judgement
    floor: float
    key: tuple[str, ...]
    """Place of measurement and case (`group_of`)."""
    records: tuple[tuple[Record, ...], ...]
    """Those behind each point."""


def method_of(record: Record) -> str:
    """Return what tells one version of the harness from another."""
    environment = record.environment
    return environment.method_sha256[:12] if environment.method_sha256 else f"arvbench {environment.arvbench_version}"


def group_of(record: Record) -> tuple[str, ...]:
    """Return what records must share to stand in one series: machine, harness, and the case with its settings."""
    return hardware_class(record.environment), method_of(record), record.case_id, comparison_key(record)


def series_of(records: Sequence[Dated], commits: Sequence[str]) -> Iterator[Measured]:
    """Yield the series of records, points in the order of `commits`."""
    groups: dict[tuple[str, ...], dict[str, list[Dated]]] = defaultdict(lambda: defaultdict(list))
    for dated in records:
        groups[group_of(dated.record)][str(dated.record.environment.git_commit)].append(dated)
    for key, by_commit in groups.items():
        found: dict[tuple[object, ...], list[tuple[Series, Point, tuple[Record, ...]]]] = defaultdict(list)
        for commit in commits:
            if commit in by_commit:
                for one, point, behind in _numbers(commit, by_commit[commit]):
                    shared = (one.number, one.unit, one.basis, one.kind, one.judgement, one.lower_is_better)
                    found[shared].append((one, point, behind))
        yield from (_measured(key, points) for points in found.values())


def _numbers(commit: str, dated: Sequence[Dated]) -> Iterator[tuple[Series, Point, tuple[Record, ...]]]:
    """Yield the usable numbers of one commit, each with its point and the records behind it."""
    behind = tuple(one.record for one in dated)
    # Records of further runs of a commit count as further launches; only some of them have quality and a picture.
    launches = [record.model_copy(update={"launch": place}) for place, record in enumerate(behind, start=1)]
    for one in gated_numbers(launches, side=commit[:12]).series:
        if value := _value(one):
            point = Point(
                commit=commit,
                at=min(each.at for each in dated),
                value=value,
                values=one.values,
                record_ids=tuple(record.record_id for record in behind),
            )
            yield one, point, behind


def _value(one: Series) -> float | None:
    """Return the value of a point; None for numbers that are none: a time of 0, a distance that is not finite."""
    if not one.values or not all(isfinite(value) and value > 0 for value in one.values):
        return None
    return fmean(one.values) if one.judgement is Judgement.SEEDS else median(one.values)


def _measured(key: tuple[str, ...], points: Sequence[tuple[Series, Point, tuple[Record, ...]]]) -> Measured:
    one = points[-1][0]
    hardware, method, case, *_ = key
    history = NumberHistory(
        hardware=hardware,
        method=method,
        case=case,
        number=one.number,
        kind=one.kind,
        unit=one.unit,
        basis=one.basis,
        lower_is_better=one.lower_is_better,
        exact=one.judgement is Judgement.EXACT,
        points=tuple(point for _, point, _ in points),
    )
    records = tuple(behind for *_, behind in points)
    return Measured(history, one.judgement, max(each.floor for each, *_ in points), key, records)
