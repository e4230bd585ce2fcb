"""Figures of curves: one panel for each set of conditions, with a legend of all curves below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from arvbench.reports.cases import group_by
from arvbench.reports.data import Data, make_data
from arvbench.reports.figures.drawing import MARKERS, SERIES, first_of, legend, panels, set_title

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":")
_MOST_MARKERS = 24
"""Of a curve; more of them run into each other."""


class Point(NamedTuple):
    """Value at a place, with its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    record_id: str = ""
    """Record behind the point, where it is not the curve's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Line through points, of which there is at least one."""

    record_id: str
    name: str
    """Label, safe for a legend."""
    where: tuple[str, str]
    """Title of its panel: only curves under equal conditions share one."""
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCurves:
    """Figure with the curves for which it had room."""

    figure: Figure
    curves: tuple[Curve, ...]
    left_out: str
    """Sentence about the others; "" for none."""


FinishPanel = Callable[["Axes", Sequence[Curve]], None]
"""Function that sets what is particular to the axes of a panel."""


def draw_curves(
    curves: Sequence[Curve], labels: tuple[str, str], finish: FinishPanel, *, things: str = "curves", cases: int = 0
) -> DrawnCurves | None:
    """Draw curves, their intervals as bands; `labels` of both axes with units. None without curves.

    `cases` are those behind the curves, where a curve stands for several.
    """
    groups, left_out = first_of(group_by(curves, lambda curve: curve.where), things, cases=cases)
    if not groups:
        return None
    drawn = [curve for members in groups.values() for curve in members]
    names = list(dict.fromkeys(curve.name for curve in drawn))
    figure, axes = panels(len(groups), names)
    handles: dict[str, Artist] = {}
    for ax, (where, members) in zip(axes, groups.items(), strict=True):
        set_title(ax, *where)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        for curve in members:
            handles[curve.name] = draw_curve(ax, curve, names.index(curve.name))
        ax.set_ylim(bottom=0)
        finish(ax, members)
    legend(figure, [handles[name] for name in names], names)
    return DrawnCurves(figure=figure, curves=tuple(drawn), left_out=left_out)


def draw_curve(ax: Axes, curve: Curve, number: int) -> Artist:
    """Draw one curve in the colour, marker and dash of its number."""
    xs, ys = [point.x for point in curve.points], [point.y for point in curve.points]
    color = SERIES[number % len(SERIES)]
    if any(point.low is not None for point in curve.points):
        low = [point.y if point.low is None else point.low for point in curve.points]
        high = [point.y if point.high is None else point.high for point in curve.points]
        ax.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0)
    dash = _DASHES[number // len(SERIES) % len(_DASHES)]
    marker, every = MARKERS[number % len(MARKERS)], -(-len(xs) // _MOST_MARKERS)
    return ax.plot(xs, ys, color=color, marker=marker, markevery=every, linestyle=dash)[0]


def curves_data(
    curves: Sequence[Curve], labels: tuple[str, str], where: tuple[str, str] = ("Hardware", "Conditions")
) -> Data:
    """Return all points of curves as data, with their records; `where` heads what the title of a panel holds."""
    x, y = labels
    return make_data(
        ("Record", "Case", *where, x, y, f"{y}, low", f"{y}, high"),
        (
            (point.record_id or curve.record_id, curve.name, *curve.where, point.x, point.y, point.low, point.high)
            for curve in curves
            for point in curve.points
        ),
    )
