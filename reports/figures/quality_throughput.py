"""FID against throughput, with the Pareto front and the size of the cache.

A panel holds one protocol id and one set of conditions, since only those cases compare.

Units    FID without unit, lower is better; throughput images per second, scope images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from arvbench.reports.answer.measures import CACHE, SPEED, Measure, Reading, front_of, quality_measures
from arvbench.reports.cases import Conditions, conditions, group_by, has_random_weights, measured
from arvbench.reports.data import Data, make_data
from arvbench.reports.figures.drawing import (
    MARKERS,
    MUTED,
    SERIES,
    Drawing,
    first_of,
    label,
    legend,
    listed,
    panels,
    set_title,
)
from arvbench.reports.names import short_names
from arvbench.reports.numbers import plain, significant
from arvbench.reports.tables.quality import protocol_names
from arvbench.results.launches import several_launches
from arvbench.results.schema import Record
from arvbench.results.statistics import Estimate, find_timing, images_per_second

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_HEADROOM = 1.15
_SMALLEST, _LARGEST = 5.0, 12.0
"""Sizes of the markers of no cache and of the largest, in points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    name: str
    protocol_id: str
    protocol: str
    """Name and id."""
    conditions: Conditions
    fid: float
    interval: tuple[float, float] | None
    throughput: Estimate
    record: Record


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a point for every case that has both a FID and a throughput."""
    found = group_by(_points(records), lambda point: (point.protocol_id, point.conditions))
    if not found:
        return None
    measures = {each.protocol: each for each in quality_measures(records) if each.name == "fid"}
    fronts = {place: _front(measures[members[0].protocol], members) for place, members in found.items()}
    groups, left_out = first_of(found, "points")
    points = [point for members in groups.values() for point in members]
    names = list(dict.fromkeys(point.name for point in points))
    labels = [label(name) for name in names]
    figure, axes = panels(len(groups), labels)
    handles: dict[str, Artist] = {}
    largest = max(map(_cache_mib, points))
    for ax, (place, members) in zip(axes, groups.items(), strict=True):
        where = place[1]
        protocol = label(members[0].protocol)
        set_title(ax, label(where.hardware), f"{label(where.arithmetic)}, batch {where.batch}, {protocol}")
        ax.set_xlabel("Throughput (images/s)")
        ax.set_ylabel("FID (no unit, lower is better)")
        if fronts[place]:
            _draw_front(ax, members)
        for point in members:
            handles[point.name] = _draw_point(ax, point, names.index(point.name), largest)
        # From zero, so that distances on the page are in proportion.
        ax.set_xlim(0, _HEADROOM * max(point.throughput.value for point in members))
        ax.set_ylim(
            0, _HEADROOM * max(value for point in members for value in (point.fid, *(point.interval or ()))) or 1
        )
    legend(figure, [handles[name] for name in names], labels)
    points_text = listed(
        f"{p.name}: FID {significant(p.fid)} at {significant(p.throughput.value)} images/s" for p in points
    )
    on_front = {name for place in groups for name in fronts[place]}
    best = f" On the Pareto front: {listed(name for name in names if name in on_front)}." if on_front else ""
    sizes = f" Markers grow with the cache, up to {significant(largest)} MiB." if largest > 0 else ""
    over = "; of speed over launches, where a case has 6 or more" if several_launches(records) else ""
    return Drawing(
        figure=figure,
        title="Quality, speed and cache",
        caption=f"Lower right is better; the line is the Pareto front, the cases that no other beats in both.{sizes} "
        f"Whiskers: 95 % intervals, of FID where a record has one{over}. Only cases "
        "with the same protocol id, hardware, data type and batch share a panel; cases with random weights have no "
        f"quality.{left_out}",
        alt=f"Scatter plot of FID against images per second. {points_text}.{best}",
        data=_data(found, fronts),
    )


_Place = tuple[str, Conditions]
"""Protocol id and conditions."""


def _data(groups: Mapping[_Place, Sequence[_Point]], fronts: Mapping[_Place, Sequence[str]]) -> Data:
    return make_data(
        (
            *("Record", "Case", "Protocol", "Hardware", "Dtype", "Batch", "FID, lower is better", "FID, low"),
            *("FID, high", "Throughput (images/s)", "Throughput (images/s), low", "Throughput (images/s), high"),
            *("Cache peak (MiB)", "On the Pareto front"),
        ),
        (
            (
                *(point.record.record_id, label(point.name), label(point.protocol)),
                *(place[1].hardware, place[1].arithmetic, place[1].batch),
                *(point.fid, *(point.interval or (None, None))),
                *(point.throughput.value, point.throughput.low, point.throughput.high, _cache_mib(point)),
                ("yes" if point.name in fronts[place] else "no") if fronts[place] else None,
            )
            for place, points in groups.items()
            for point in points
        ),
    )


def _points(records: Sequence[Record]) -> list[_Point]:
    names, protocols = short_names(records), protocol_names(records)
    points: list[_Point] = []
    for record, outcome in measured(records):
        timing = find_timing(outcome, "images")
        throughput = None if timing is None else images_per_second(timing)
        if throughput is None or has_random_weights(record):
            continue
        where = conditions(record)
        points.extend(
            _Point(
                name=names[record.record_id],
                protocol_id=plain(quality.protocol_id),
                protocol=protocols[quality.protocol_id],
                conditions=where,
                fid=quality.value,
                interval=quality.interval if quality.interval and all(map(isfinite, quality.interval)) else None,
                throughput=throughput,
                record=record,
            )
            for quality in outcome.quality
            if quality.metric == "fid" and isfinite(quality.value)
        )
    return points


def _front(quality: Measure, members: Sequence[_Point]) -> list[str]:
    """Return the names of the front of a panel; none where it says nothing."""
    qualities = quality.readings({point.name: point.record for point in members})
    speeds = {point.name: Reading(*point.throughput[:3]) for point in members}
    names = front_of([(quality, qualities), (SPEED, speeds)])
    return names if 1 <= len(names) < len(members) else []


def _draw_front(ax: Axes, members: Sequence[_Point]) -> None:
    """Draw the front of a panel as steps."""
    # The line has the steps of the values alone; a case on the front may lie off it, within its interval.
    points, least = list[_Point](), float("inf")
    for point in sorted(members, key=lambda point: (-point.throughput.value, point.fid)):
        if point.fid < least:
            points, least = [point, *points], point.fid
    speeds, fids = [point.throughput.value for point in points], [point.fid for point in points]
    ax.step(speeds, fids, where="pre", color=MUTED, linewidth=1, linestyle="--", zorder=1)


def _cache_mib(point: _Point) -> float:
    reading = CACHE.reading(point.record)
    return 0 if reading is None else reading.value


def _draw_point(ax: Axes, point: _Point, number: int, largest_mib: float) -> Artist:
    """Draw a point with its whiskers; the area of the marker grows with the cache."""
    size = _SMALLEST + (_LARGEST - _SMALLEST) * (_cache_mib(point) / largest_mib if largest_mib > 0 else 0) ** 0.5
    color = SERIES[number % len(SERIES)]
    speed = point.throughput
    if speed.low is not None and speed.high is not None:
        ax.plot([speed.low, speed.high], [point.fid, point.fid], color=color, linewidth=1.2)
    if point.interval is not None:
        ax.plot([speed.value, speed.value], point.interval, color=color, linewidth=1.2)
    return ax.plot([speed.value], [point.fid], MARKERS[number % len(MARKERS)], color=color, markersize=size)[0]
