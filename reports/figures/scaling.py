"""Throughput against batch, and against the size of the image, of cases that differ in nothing else.

Units    throughput images per second, scope images; batch images; size pixels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arvbench.reports.cases import arithmetic, group_by, hardware, has_random_weights, measured
from arvbench.reports.figures.curves import Curve, Point, curves_data, draw_curves
from arvbench.reports.figures.drawing import Drawing, label, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import significant
from arvbench.results.schema import Measured, Record
from arvbench.results.statistics import find_timing, images_per_second

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_THROUGHPUT = "Throughput (images/s)"
_OF_SIZE = {"scales"}
"""Settings that make the image larger or smaller and change nothing else; fewer `tokens` make it worse as well."""
_MOST_TICKS = 8
"""Places that have a tick each; of more, the powers of two have."""


def draw_batch(records: Sequence[Record]) -> Drawing | None:
    """Draw a curve for every model and way to run it that was measured at several batches."""
    curves = _curves(
        records,
        lambda record, _: float(record.case.batch),
        lambda record: record.case.model_dump_json(exclude={"batch", "quality", "sample_sheet"}),
        lambda record: (label(hardware(record)), label(arithmetic(record))),
    )
    return _drawing(curves, ("Batch (images)", _THROUGHPUT), "Scaling with the batch", "batch")


def draw_size(records: Sequence[Record]) -> Drawing | None:
    """Draw a curve for every model and way to run it that was measured at several sizes of the image."""
    curves = _curves(
        records,
        lambda _, outcome: float(outcome.setup.image_px),
        lambda record: record.case.model_dump_json(
            exclude={"settings": _OF_SIZE, "quality": True, "sample_sheet": True}
        ),
        lambda record: (label(hardware(record)), f"{label(arithmetic(record))}, batch {record.case.batch}"),
    )
    return _drawing(curves, ("Width of the image (px)", _THROUGHPUT), "Scaling with the size of the image", "size")


def _curves(
    records: Sequence[Record],
    place: Callable[[Record, Measured], float],
    alike: Callable[[Record], str],
    where: Callable[[Record], tuple[str, str]],
) -> list[Curve]:
    """Make a curve of each group of cases that are `alike` and lie at several places."""
    names = short_names(records)
    timed = [
        (record, place(record, outcome), speed)
        for record, outcome in measured(records)
        if (timing := find_timing(outcome, "images")) is not None and (speed := images_per_second(timing)) is not None
    ]
    if len({x for _, x, _ in timed}) < 2:
        return []
    groups = group_by(timed, lambda each: (where(each[0]), alike(each[0]), str(each[0].environment.identity())))
    curves = []
    for (panel, _, _), group in groups.items():
        at = {x: Point(x, speed.value, speed.low, speed.high, record.record_id) for record, x, speed in group}
        if len(at) < 2:
            continue
        first = min(group, key=lambda each: each[1])[0]
        curves.append(
            Curve(
                record_id=first.record_id,
                name=label(f"{names[first.record_id]} and up", random=has_random_weights(first)),
                where=panel,
                points=tuple(at[x] for x in sorted(at)),
            )
        )
    return curves


def _drawing(curves: Sequence[Curve], labels: tuple[str, str], title: str, along: str) -> Drawing | None:
    drawn = draw_curves(curves, labels, _logarithmic, cases=sum(len(curve.points) for curve in curves))
    if drawn is None:
        return None
    ends = listed(
        f"{curve.name}: {significant(curve.points[0].y)} images/s at {along} {curve.points[0].x:g}, "
        f"{significant(curve.points[-1].y)} at {curve.points[-1].x:g}"
        for curve in drawn.curves
    )
    return Drawing(
        figure=drawn.figure,
        title=title,
        caption=f"Images of one call over its median time, on a logarithmic axis of the {along}; the band is the "
        f"interval. A curve is named by its first case, and its cases differ in nothing else.{drawn.left_out}",
        alt=f"Line plot of images per second against {along}. {ends}.",
        data=curves_data(curves, labels),
    )


def _logarithmic(ax: Axes, curves: Sequence[Curve]) -> None:
    ax.set_xscale("log", base=2)
    if len(places := sorted({point.x for curve in curves for point in curve.points})) <= _MOST_TICKS:
        ax.set_xticks(places)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
