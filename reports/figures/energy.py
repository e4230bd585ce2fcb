"""Energy of an image against throughput, net of idle power and gross.

Units    joules per image; throughput images per second, scope images
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arvbench.reports.cases import arithmetic, group_by, hardware, has_random_weights
from arvbench.reports.data import make_data
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
from arvbench.reports.tables.energy import energies
from arvbench.results.energy import EnergyNumbers, energy_numbers
from arvbench.results.schema import Measured, Record
from arvbench.results.statistics import find_timing, images_per_second

if TYPE_CHECKING:
    from matplotlib.artist import Artist


class _Point(NamedTuple):
    record: Record
    name: str
    where: tuple[str, str]
    """Hardware; data type and what the numbers count: only equal ones share a panel."""
    numbers: EnergyNumbers
    throughput: float


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw two markers for every case with energy, net and gross, joined by a line."""
    points = _points(records)
    groups, left_out = first_of(group_by(points, lambda point: point.where), "points")
    if not groups:
        return None
    drawn = [point for members in groups.values() for point in members]
    names = [point.name for point in drawn]
    figure, axes = panels(len(groups), names)
    handles: list[Artist] = []
    for ax, (where, members) in zip(axes, groups.items(), strict=True):
        set_title(ax, *where)
        ax.set_xlabel("Throughput (images/s)")
        ax.set_ylabel("Energy (J/image)")
        for point in members:
            number, x = len(handles), point.throughput
            style: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)]}
            ax.plot([x, x], [point.numbers.net_j, point.numbers.gross_j], color=MUTED, linewidth=1.0, zorder=1)
            ax.plot([x], [point.numbers.gross_j], markerfacecolor="none", linestyle="none", **style)
            handles += ax.plot([x], [point.numbers.net_j], linestyle="none", **style)
        ax.set_xlim(0, 1.15 * max(point.throughput for point in members))
        joules = [value for point in members for value in (point.numbers.net_j, point.numbers.gross_j)]
        ax.set_ylim(min(0.0, *joules), 1.15 * max(*joules, 0.0) or 1)
    legend(figure, handles, names)
    words = listed(
        f"{p.name}: {significant(p.numbers.net_j)} J net, {significant(p.numbers.gross_j)} J gross, at "
        f"{significant(p.throughput)} images/s"
        for p in drawn
    )
    return Drawing(
        figure=figure,
        title="Energy of an image",
        caption="Filled: net of the power of idle windows; hollow: gross. Lower right is better. A panel holds one "
        f"hardware, data type and source of energy.{left_out}",
        alt=f"Scatter plot of joules per image against images per second. {words}.",
        data=make_data(
            (
                *("Record", "Case", "Hardware", "Conditions", "Batch", "By", "Net (J/image)", "Gross (J/image)"),
                *("Idle (W)", "At work (W)", "Throughput (images/s)"),
            ),
            (
                (
                    *(p.record.record_id, p.name, *p.where, p.record.case.batch, p.numbers.by),
                    *(p.numbers.net_j, p.numbers.gross_j, p.numbers.idle_w, p.numbers.work_w, p.throughput),
                )
                for p in points
            ),
        ),
    )


def _points(records: Sequence[Record]) -> list[_Point]:
    names, points = short_names(records), list[_Point]()
    for record, energy in energies(records):
        numbers = energy_numbers(energy, "counter") or energy_numbers(energy, "power")
        timing = find_timing(record.outcome, "images") if isinstance(record.outcome, Measured) else None
        speed = None if timing is None else images_per_second(timing)
        if numbers is None or speed is None:
            continue
        name = label(names[record.record_id], random=has_random_weights(record))
        by = f"{label(arithmetic(record))}, {label(plain(energy.source))} {numbers.by}"
        points.append(_Point(record, name, (label(hardware(record)), by), numbers, speed.value))
    return points
