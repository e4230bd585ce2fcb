"""Time of every step, with its interval. A panel holds one set of conditions.

Units    milliseconds per call (the whole batch), scope step[i]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arvbench.reports.cases import (
    RANDOM_WEIGHTS,
    Conditions,
    case_names,
    conditions,
    group_by,
    has_random_weights,
    measured,
)
from arvbench.reports.figures.drawing import MARKERS, SERIES, Drawing, label, legend, listed, panels
from arvbench.reports.numbers import significant
from arvbench.reports.statistics import Estimate, find_timing, milliseconds
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_DASHES = ("-", "--", ":")
_MOST_NAMED_STEPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    name: str
    conditions: Conditions
    steps: tuple[int, ...]
    step_names: tuple[str, ...]
    times: tuple[Estimate, ...]
    """Milliseconds, one for each step."""


def draw(records: Sequence[Record]) -> Drawing | None:
    """One curve for every case with times of its steps."""
    curves = _curves(records)
    if not curves:
        return None
    groups = group_by(curves, lambda curve: curve.conditions)
    names = [curve.name for curve in curves]
    figure, axes = panels(len(groups), legend_entries=len(names))
    handles: list[Artist] = []
    for ax, (where, members) in zip(axes, groups.items(), strict=True):
        ax.set_title(f"{label(where.hardware)}\n{label(where.arithmetic)}, batch {where.batch}")
        ax.set_ylabel("Time per step (ms)")
        _name_steps(ax, members)
        handles.extend(_draw_curve(ax, curve, len(handles) + place) for place, curve in enumerate(members))
        ax.set_ylim(bottom=0)
    ordered = [curve.name for members in groups.values() for curve in members]
    legend(figure, handles, [label(name) for name in ordered])
    told = listed(
        f"{curve.name}: {len(curve.times)} steps, from {significant(curve.times[0].value)} ms at the first "
        f"to {significant(curve.times[-1].value)} ms at the last"
        for curve in curves
    )
    return Drawing(
        figure=figure,
        title="Latency of every step",
        caption="Median time of one call for the whole batch; the band is the 95 % interval. Each panel holds one "
        "hardware, data type and batch.",
        alt=f"Line plot of milliseconds for each step. {told}.",
    )


def _curves(records: Sequence[Record]) -> list[_Curve]:
    names = case_names(records)
    curves: list[_Curve] = []
    for record, outcome in measured(records):
        timed = [
            (plan, milliseconds(timing))
            for plan in outcome.setup.plan
            if (timing := find_timing(outcome, f"step[{plan.index}]")) is not None
        ]
        if not timed:
            continue
        mark = f" ({RANDOM_WEIGHTS})" if has_random_weights(record) else ""
        curves.append(
            _Curve(
                name=f"{names[record.record_id]}{mark}",
                conditions=conditions(record),
                steps=tuple(plan.index for plan, _ in timed),
                step_names=tuple(plan.name for plan, _ in timed),
                times=tuple(time for _, time in timed),
            )
        )
    return curves


def _name_steps(ax: Axes, curves: Sequence[_Curve]) -> None:
    """Name the steps below the axis when all curves have the same ones, else number them."""
    first = curves[0]
    ax.set_xlabel("Step (index)")
    alike = all(curve.step_names == first.step_names and curve.steps == first.steps for curve in curves)
    kinds = {name.split(" ", 1)[0] for name in first.step_names}
    if not alike or len(first.steps) > _MOST_NAMED_STEPS or len(kinds) != 1:
        return
    ax.set_xticks(first.steps, [label(name.split(" ", 1)[-1]) for name in first.step_names], rotation=45)
    ax.set_xlabel(f"Step ({label(kinds.pop())}, tokens high x wide)")


def _draw_curve(ax: Axes, curve: _Curve, number: int) -> Artist:
    color = SERIES[number % len(SERIES)]
    low = [time.value if time.low is None else time.low for time in curve.times]
    high = [time.value if time.high is None else time.high for time in curve.times]
    ax.fill_between(curve.steps, low, high, color=color, alpha=0.18, linewidth=0)
    return ax.plot(
        curve.steps,
        [time.value for time in curve.times],
        color=color,
        marker=MARKERS[number % len(MARKERS)],
        linestyle=_DASHES[number // len(SERIES) % len(_DASHES)],
    )[0]
