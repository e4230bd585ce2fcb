"""Time of every step, with its interval. A panel holds one set of conditions.

Units    milliseconds per call (the whole batch), scope step[i]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arvbench.reports.cases import Conditions, conditions, group_by, has_random_weights, measured
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
from arvbench.reports.numbers import significant
from arvbench.results.launches import several_launches
from arvbench.results.schema import Record
from arvbench.results.statistics import Estimate, find_timing, milliseconds

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_DASHES = ("-", "--", ":")
_MOST_NAMED_STEPS = 16
_LONGEST_STEP_NAME = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    number: int
    """Place among all curves of the figure."""
    name: str
    random: bool
    conditions: Conditions
    steps: tuple[int, ...]
    step_names: tuple[str, ...]
    times: tuple[Estimate, ...]
    """Milliseconds, one for each step."""


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw one curve for every case with step times."""
    curves = _curves(records)
    if not curves:
        return None
    groups, left_out = first_of(group_by(curves, lambda curve: curve.conditions), "cases")
    curves = [curve for members in groups.values() for curve in members]
    labels = [label(curve.name, random=curve.random) for curve in curves]
    figure, axes = panels(len(groups), labels)
    handles: dict[int, Artist] = {}
    for ax, (where, members) in zip(axes, groups.items(), strict=True):
        set_title(ax, label(where.hardware), f"{label(where.arithmetic)}, batch {where.batch}")
        ax.set_ylabel("Time per step (ms)")
        _name_steps(ax, members)
        for curve in members:
            handles[curve.number] = _draw_curve(ax, curve)
        ax.set_ylim(bottom=0)
    legend(figure, [handles[curve.number] for curve in curves], labels)
    ends = listed(
        f"{name}: {len(curve.times)} steps, {significant(curve.times[0].value)} ms at the first, "
        f"{significant(curve.times[-1].value)} ms at the last"
        for name, curve in zip(labels, curves, strict=True)
    )
    band = "the 95 % interval within one process, where 6 calls or more were timed"
    if several_launches(records):
        band = f"the interval over launches, where a case has 6 or more; of a case with one launch, {band}"
    return Drawing(
        figure=figure,
        title="Latency of every step",
        caption=f"Median time of one call for the whole batch; the band is {band}. Each panel holds one "
        f"hardware, data type and batch.{left_out}",
        alt=f"Line plot of milliseconds for each step. {ends}.",
    )


def _curves(records: Sequence[Record]) -> list[_Curve]:
    names = short_names(records)
    curves: list[_Curve] = []
    for record, outcome in measured(records):
        timed = [
            (plan, milliseconds(timing))
            for plan in outcome.setup.plan
            if (timing := find_timing(outcome, f"step[{plan.index}]")) is not None
        ]
        if not timed:
            continue
        curves.append(
            _Curve(
                number=len(curves),
                name=names[record.record_id],
                random=has_random_weights(record),
                conditions=conditions(record),
                steps=tuple(plan.index for plan, _ in timed),
                step_names=tuple(plan.name for plan, _ in timed),
                times=tuple(time for _, time in timed),
            )
        )
    return curves


def _name_steps(ax: Axes, curves: Sequence[_Curve]) -> None:
    """Name the steps below the axis when all curves agree on them and there is room, else number them."""
    first = curves[0]
    ax.set_xlabel("Step (index)")
    alike = all(curve.step_names == first.step_names and curve.steps == first.steps for curve in curves)
    kinds = {name.split(" ", 1)[0] for name in first.step_names}
    short = [label(name.split(" ", 1)[-1]) for name in first.step_names]
    if not alike or len(kinds) != 1 or len(short) > _MOST_NAMED_STEPS or max(map(len, short)) > _LONGEST_STEP_NAME:
        return
    ax.set_xticks(first.steps, short, rotation=45)
    ax.set_xlabel(f"Step ({label(kinds.pop())}, tokens high x wide)")


def _draw_curve(ax: Axes, curve: _Curve) -> Artist:
    number, color = curve.number, SERIES[curve.number % len(SERIES)]
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
