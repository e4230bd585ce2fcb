"""Roofline: achieved rate against arithmetic intensity, under the measured ceilings. A panel holds one machine.

Units    FLOP per byte, GFLOP/s; both axes logarithmic
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from arvbench.reports.cases import arithmetic, group_by, hardware, has_random_weights, measured
from arvbench.reports.data import make_data
from arvbench.reports.figures.drawing import (
    INK,
    MARKERS,
    MUTED,
    PAPER,
    SERIES,
    Drawing,
    first_of,
    label,
    legend,
    listed,
    name_powers,
    panels,
    set_title,
)
from arvbench.reports.names import short_names
from arvbench.reports.numbers import significant
from arvbench.reports.tables.roofline import GIGA
from arvbench.results.roofline import Machine, has_floor, machine_of, timed_pieces
from arvbench.results.schema import Measured, Record
from arvbench.results.statistics import nanoseconds, timings_by_scope

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

MOST_CASES = 16
"""Each has a point for every step."""
_DASHES = ("--", ":", "-.")
_ROOM = 3.0
"""Room beside the outermost points, as a factor."""


class _Point(NamedTuple):
    intensity: float
    rate: float
    """GFLOP/s."""
    scope: str

    @property
    def decode(self) -> bool:
        return self.scope == "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    number: int
    """Place among all cases of the figure."""
    record_id: str
    name: str
    """Label, safe for a legend."""
    where: tuple[str, str]
    """Hardware and arithmetic."""
    dtype: str
    machine: Machine
    points: tuple[_Point, ...]


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a point for every timed step, and one for the decode, of every case with ceilings."""
    found = _cases(records)
    if not found:
        return None
    groups, left_out = first_of(group_by(found, lambda case: case.where), "cases", most=MOST_CASES)
    cases = [case for members in groups.values() for case in members]
    labels = [case.name for case in cases]
    figure, axes = panels(len(groups), labels)
    handles: dict[int, Artist] = {}
    for ax, (where, members) in zip(axes, groups.items(), strict=True):
        set_title(ax, label(where[0]), label(where[1]))
        ax.loglog()
        name_powers(ax.xaxis)
        name_powers(ax.yaxis)
        ax.set_xlabel("Intensity (FLOP/byte)")
        ax.set_ylabel("Achieved (GFLOP/s)")
        _draw_ceilings(ax, members)
        for case in members:
            handles[case.number] = _draw_case(ax, case)
    legend(figure, [handles[case.number] for case in cases], labels)
    best = listed(
        f"{name}: up to {significant(max(point.rate for point in case.points))} GFLOP/s"
        for name, case in zip(labels, cases, strict=True)
    )
    return Drawing(
        figure=figure,
        title="Roofline",
        caption="One filled point per step, and one open point for the decode. The flat line is the measured rate of "
        "matrix products of the case\N{RIGHT SINGLE QUOTATION MARK}s data type, the sloped ones are the measured rates "
        "of copies, small (from caches) and large (from memory); of several cases in a panel, each is the highest. "
        f"A point can lie at most on the lines, and its distance below them is what is left.{left_out}",
        alt=f"Plot of achieved GFLOP/s against FLOP per byte, both logarithmic, under measured ceilings. {best}.",
        data=make_data(
            ("Record", "Case", "Hardware", "Dtype", "Scope", "Intensity (FLOP/byte)", "Achieved (GFLOP/s)"),
            (
                (case.record_id, case.name, *case.where, point.scope, point.intensity, point.rate)
                for case in found
                for point in case.points
            ),
        ),
    )


def _cases(records: Sequence[Record]) -> list[_Case]:
    names, cases = short_names(records), list[_Case]()
    for record, outcome in measured(records):
        machine = machine_of(record, outcome)
        # Records of an older schema, and edited ones, may lack the rate of their dtype.
        if machine is None or record.case.dtype not in machine.flops_per_s:
            continue
        points = _points(record, outcome, machine)
        if not points:
            continue
        cases.append(
            _Case(
                number=len(cases),
                record_id=record.record_id,
                name=label(names[record.record_id], random=has_random_weights(record)),
                where=(hardware(record), arithmetic(record)),
                dtype=record.case.dtype,
                machine=machine,
                points=points,
            )
        )
    return cases


def _points(record: Record, outcome: Measured, machine: Machine) -> tuple[_Point, ...]:
    """Return the timed pieces of which FLOPs and bytes are known, and to which the ceilings belong."""
    timings, points = timings_by_scope(outcome), list[_Point]()
    for scope, piece in timed_pieces(record, outcome).items():
        if scope in timings and piece.flops and piece.bytes_moved and has_floor(piece, machine):
            time_ns = nanoseconds(timings[scope]).value
            if time_ns > 0:
                # FLOPs per ns are GFLOP/s.
                points.append(_Point(piece.flops / piece.bytes_moved, piece.flops / time_ns, scope))
    return tuple(points)


def _draw_ceilings(ax: Axes, cases: Sequence[_Case]) -> None:
    """Draw the lines over the whole panel, from left of the points to right of them."""
    intensities = [point.intensity for case in cases for point in case.points]
    rates = [point.rate for case in cases for point in case.points]
    peak = max(case.machine.flops_per_s[case.dtype] for case in cases) / GIGA
    left, right = min(intensities) / _ROOM, max(intensities) * _ROOM
    copies = [
        max(rates) / GIGA for rates in zip(*([r for _, r in case.machine.copies] for case in cases), strict=False)
    ]
    right = max(right, *(_ROOM * peak / rate for rate in copies))
    for rate, dashes in zip(copies, _DASHES, strict=False):
        ax.plot([left, peak / rate], [left * rate, peak], color=MUTED, linestyle=dashes, linewidth=1)
    ax.plot([min(peak / rate for rate in copies), right], [peak, peak], color=INK, linewidth=1.2)
    style: dict[str, Any] = {"color": MUTED, "fontsize": 8}
    ax.text(right, 1.15 * peak, f"{significant(peak)} GFLOP/s ", ha="right", va="bottom", **style)
    ax.text(left, 0.8 * left * min(copies), f" {significant(min(copies))} GB/s", ha="left", va="top", **style)
    ax.set_xlim(left, right)
    ax.set_ylim(min(*rates, left * min(copies)) / _ROOM, max(*rates, peak) * _ROOM)


def _draw_case(ax: Axes, case: _Case) -> Artist:
    color = SERIES[case.number % len(SERIES)]
    marker = MARKERS[(case.number + case.number // len(SERIES)) % len(MARKERS)]
    steps = [point for point in case.points if not point.decode]
    drawn = ax.plot(
        [point.intensity for point in steps], [point.rate for point in steps], marker, color=color, linestyle="none"
    )[0]
    for point in case.points:
        if point.decode:
            ax.plot(
                [point.intensity], [point.rate], marker, markeredgecolor=color, markerfacecolor=PAPER, linestyle="none"
            )
    return drawn
