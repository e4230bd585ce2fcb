"""Drift of lossy cases step by step: the share of tokens that are drawn as the exact case draws them.

Units    equal tokens in per cent, on the exact case's path and on each side's own
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arvbench.reports.cases import arithmetic, has_random_weights, measured
from arvbench.reports.data import make_data
from arvbench.reports.figures.curves import Curve, Point, draw_curves
from arvbench.reports.figures.drawing import Drawing, label, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import plain, significant
from arvbench.results.drift import Drift
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _whole(ax: Axes, _: Sequence[Curve]) -> None:
    """Show all of 0 to 100 %, with room for markers at the top, and whole steps."""
    from matplotlib.ticker import MaxNLocator

    ax.set_ylim(0, 103)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _points(drift: Drift) -> tuple[Point, ...]:
    return tuple(
        Point(step.step, 100 * step.forced_agreement) for step in drift.steps if step.forced_agreement is not None
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a curve for every lossy case that draws tokens, on the path of the exact one."""
    names = short_names(records)
    drifts = [
        (record, outcome.drift)
        for record, outcome in measured(records)
        if outcome.drift is not None and outcome.drift.forced_agreement is not None
    ]
    curves = [
        Curve(
            record_id=record.record_id,
            name=label(names[record.record_id], random=has_random_weights(record)),
            where=(
                label(plain(record.case.model)),
                f"batch {record.case.batch}, {label(arithmetic(record))}",
            ),
            points=_points(drift),
        )
        for record, drift in drifts
    ]
    drawn = draw_curves(curves, ("Step (index)", "Equal tokens (%)"), _whole)
    if drawn is None:
        return None
    least = listed(
        f"{curve.name}: {significant(min(point.y for point in curve.points))} % at least" for curve in drawn.curves
    )
    return Drawing(
        figure=drawn.figure,
        title="Drift of every step",
        caption="Share of tokens that a lossy case draws as the exact one, from the same noise and along the tokens of "
        f"the exact one, so that an early difference does not hide the rest.{drawn.left_out}",
        alt=f"Line plot of the percentage of equal tokens for each step. {least}.",
        data=make_data(
            (
                *("Record", "Case", "Compared with", "Step (index)", "Step", "Equal tokens, same path (%)"),
                *("Equal tokens, own path (%)", "KL of logits (nats)"),
            ),
            (
                (
                    *(record.record_id, names[record.record_id], drift.against, step.step, step.name),
                    *(_percent(step.forced_agreement), _percent(step.free_agreement), step.kl),
                )
                for record, drift in drifts
                for step in drift.steps
            ),
        ),
    )
