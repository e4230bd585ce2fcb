"""Time of every step, with its interval. A panel holds one set of conditions.

Units    milliseconds per call (the whole batch), scope step[i]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from arvbench.reports.cases import conditions, has_random_weights, measured
from arvbench.reports.figures.curves import Curve, Point, curves_data, draw_curves
from arvbench.reports.figures.drawing import Drawing, label, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import significant
from arvbench.results.launches import several_launches
from arvbench.results.schema import Record, StepPlan
from arvbench.results.statistics import milliseconds, timings_by_scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMED_STEPS = 16
_LONGEST_STEP_NAME = 9
_LABELS = ("Step (index)", "Time per step (ms)")


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw one curve for every case with step times."""
    curves = _curves(records)
    plans = {record.record_id: outcome.setup.plan for record, outcome in measured(records)}
    drawn = draw_curves(curves, _LABELS, lambda ax, members: _name_steps(ax, members, plans), things="cases")
    if drawn is None:
        return None
    ends = listed(
        f"{curve.name}: {len(curve.points)} steps, {significant(curve.points[0].y)} ms at the first, "
        f"{significant(curve.points[-1].y)} ms at the last"
        for curve in drawn.curves
    )
    band = "the 95 % interval within one process, where 6 calls or more were timed"
    if several_launches(records):
        band = f"the interval over launches, where a case has 6 or more; of a case with one launch, {band}"
    return Drawing(
        figure=drawn.figure,
        title="Latency of every step",
        caption=f"Median time of one call for the whole batch; the band is {band}. Each panel holds one "
        f"hardware, data type and batch.{drawn.left_out}",
        alt=f"Line plot of milliseconds for each step. {ends}.",
        data=curves_data(curves, _LABELS),
    )


def _curves(records: Sequence[Record]) -> list[Curve]:
    names = short_names(records)
    curves: list[Curve] = []
    for record, outcome in measured(records):
        timings = timings_by_scope(outcome)
        points = []
        for plan in outcome.setup.plan:
            if (timing := timings.get(f"step[{plan.index}]")) is not None:
                time = milliseconds(timing)
                points.append(Point(plan.index, time.value, time.low, time.high))
        if points:
            where = conditions(record)
            curves.append(
                Curve(
                    record_id=record.record_id,
                    name=label(names[record.record_id], random=has_random_weights(record)),
                    where=(label(where.hardware), f"{label(where.arithmetic)}, batch {where.batch}"),
                    points=tuple(points),
                )
            )
    return curves


def _name_steps(ax: Axes, curves: Sequence[Curve], plans: Mapping[str, Sequence[StepPlan]]) -> None:
    """Name the steps below the axis when all curves agree on them and there is room, else number them."""
    timed = [{point.x for point in curve.points} for curve in curves]
    steps = [
        [(plan.index, plan.name) for plan in plans[curve.record_id] if plan.index in own]
        for curve, own in zip(curves, timed, strict=True)
    ]
    first = steps[0]
    kinds = {name.split(" ", 1)[0] for _, name in first}
    short = [label(name.split(" ", 1)[-1]) for _, name in first]
    alike = all(own == first for own in steps)
    if not alike or len(kinds) != 1 or len(short) > _MOST_NAMED_STEPS or max(map(len, short)) > _LONGEST_STEP_NAME:
        return
    ax.set_xticks([index for index, _ in first], short, rotation=45)
    ax.set_xlabel(f"Step ({label(kinds.pop())}, tokens high x wide)")
