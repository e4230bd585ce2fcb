"""Throughput against batch, with the knee and the largest batch that fits.

Units    batch images; throughput images per second, scope images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from arvbench.reports.cases import conditions, has_random_weights, measured
from arvbench.reports.figures.curves import Curve, Point, curves_data, draw_curves
from arvbench.reports.figures.drawing import Drawing, label, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import MIB, significant
from arvbench.results.capacity import Capacity, best_of, knee_of
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = ("Batch (images)", "Throughput (images/s)")


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a curve for every search; one panel for each hardware, data type and limit."""
    searches = {
        record.record_id: outcome.capacity for record, outcome in measured(records) if outcome.capacity is not None
    }
    curves = _curves(records, searches)
    drawn = draw_curves(curves, _LABELS, lambda ax, members: _mark(ax, members, searches))
    if drawn is None:
        return None
    return Drawing(
        figure=drawn.figure,
        title="Throughput against batch",
        caption="Medians of the batches that ran, on a logarithmic axis. Ring: the knee, the smallest batch with 95 % "
        "of the best throughput. Cross: a batch that ran out of memory, at the height of the largest one that ran."
        f"{drawn.left_out}",
        alt="Line plot of images per second against batch. "
        f"{listed(_in_words(curve.name, searches[curve.record_id]) for curve in drawn.curves)}.",
        data=curves_data(curves, _LABELS),
    )


def _curves(records: Sequence[Record], searches: Mapping[str, Capacity]) -> list[Curve]:
    """Return the curves of the searches in which a batch was timed."""
    names, curves = short_names(records), list[Curve]()
    for record in records:
        found = searches.get(record.record_id)
        points = [Point(rate.probe.batch, rate.images_per_second) for rate in found.rates()] if found else []
        if found is None or not points:
            continue
        where, limit = conditions(record), found.limit_bytes
        within = f"{where.arithmetic}, within {significant(limit / MIB)} MiB" if limit else where.arithmetic
        curves.append(
            Curve(
                record_id=record.record_id,
                name=label(names[record.record_id], random=has_random_weights(record)),
                where=(label(where.hardware), label(within)),
                points=tuple(points),
            )
        )
    return curves


def _mark(ax: Axes, curves: Sequence[Curve], searches: Mapping[str, Capacity]) -> None:
    """Mark the knee and the batch that did not fit on the lines of a panel."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    for curve, line in zip(curves, list(ax.lines), strict=True):
        found, last, color = searches[curve.record_id], curve.points[-1], line.get_color()
        if (knee := knee_of(found.rates())) is not None:
            at = [knee.probe.batch], [knee.images_per_second]
            ax.plot(*at, "o", color=color, markersize=11, markerfacecolor="none", linestyle="none")
        if (beyond := found.too_large) is not None:
            ax.plot([last.x, beyond], [last.y] * 2, color=color, linestyle=":", linewidth=1.2)
            ax.plot([beyond], [last.y], "x", color=color, markersize=7)


def _in_words(name: str, found: Capacity) -> str:
    rates = found.rates()
    knee, best = knee_of(rates), best_of(rates)
    assert knee is not None and best is not None
    return (
        f"{name}: largest batch {found.max_batch} ({found.verdict(found.line())}), knee {knee.probe.batch}, best "
        f"{significant(best.images_per_second)} images/s"
    )
