"""Throughput against batch, with the knee and the largest batch that fits.

Units    batch images; throughput images per second, scope images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arvbench.reports.cases import conditions, group_by, has_random_weights, measured
from arvbench.reports.figures.drawing import (
    MARKERS,
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
from arvbench.reports.numbers import MIB, significant
from arvbench.results.capacity import Capacity
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    name: str
    where: tuple[str, str]
    capacity: Capacity


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a curve for every search; one panel for each hardware, data type and limit."""
    groups, left_out = first_of(group_by(_curves(records), lambda curve: curve.where), "curves")
    if not groups:
        return None
    curves = [curve for members in groups.values() for curve in members]
    names = [curve.name for curve in curves]
    figure, axes = panels(len(groups), names)
    handles: dict[str, Artist] = {}
    for ax, (where, members) in zip(axes, groups.items(), strict=True):
        set_title(ax, *(label(line) for line in where))
        ax.set_xlabel("Batch (images)")
        ax.set_ylabel("Throughput (images/s)")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        for curve in members:
            handles[curve.name] = _draw_curve(ax, curve, names.index(curve.name))
        ax.set_ylim(bottom=0)
    legend(figure, [handles[name] for name in names], names)
    return Drawing(
        figure=figure,
        title="Throughput against batch",
        caption="Medians of the batches that ran, on a logarithmic axis. Ring: the knee, the smallest batch with 95 % "
        "of the best throughput. Cross: a batch that ran out of memory, at the height of the largest one that ran."
        f"{left_out}",
        alt=f"Line plot of images per second against batch. {listed(map(_in_words, curves))}.",
    )


def _curves(records: Sequence[Record]) -> list[_Curve]:
    names, curves = short_names(records), list[_Curve]()
    for record, outcome in measured(records):
        if outcome.capacity is None or outcome.capacity.best() is None:
            continue
        where, limit = conditions(record), outcome.capacity.limit_bytes
        within = f"{where.arithmetic}, within {significant(limit / MIB)} MiB" if limit else where.arithmetic
        name = label(names[record.record_id], random=has_random_weights(record))
        curves.append(_Curve(name=name, where=(where.hardware, within), capacity=outcome.capacity))
    return curves


def _draw_curve(ax: Axes, curve: _Curve, number: int) -> Artist:
    color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
    points = [(p.batch, rate) for p in curve.capacity.fitting if (rate := p.images_per_second) is not None]
    line = ax.plot(*zip(*points, strict=True), color=color, marker=marker)[0]
    if (knee := curve.capacity.knee()) is not None and (rate := knee.images_per_second) is not None:
        ax.plot([knee.batch], [rate], "o", color=color, markersize=11, markerfacecolor="none", linestyle="none")
    if (beyond := curve.capacity.too_large) is not None:
        ax.plot([points[-1][0], beyond], [points[-1][1]] * 2, color=color, linestyle=":", linewidth=1.2)
        ax.plot([beyond], [points[-1][1]], "x", color=color, markersize=7)
    return line


def _in_words(curve: _Curve) -> str:
    found, knee, best = curve.capacity, curve.capacity.knee(), curve.capacity.best()
    assert knee is not None and best is not None
    return (
        f"{curve.name}: largest batch {found.max_batch} ({found.verdict()}), knee {knee.batch}, best "
        f"{significant(best.images_per_second or 0)} images/s"
    )
