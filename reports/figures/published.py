"""Measured numbers beside published ones: how far each deviates, and the likely cause.

Only numbers that may be compared have a deviation, and only they are drawn.

Units    deviation in percent of the published number
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arvbench.reports.cases import arithmetic, group_by, has_random_weights, measured, processor
from arvbench.reports.data import make_data
from arvbench.reports.figures.case_rows import case_rows
from arvbench.reports.figures.drawing import INK, MARKERS, MUTED, SERIES, Drawing, first_of, label, legend, listed
from arvbench.reports.names import short_names
from arvbench.reports.numbers import plain, significant
from arvbench.results.metrics import label_of
from arvbench.results.published.beside import Pair, pairs_of
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_ROW_IN = 0.5
_ROOM = 1.8
"""Width of the axis over the largest deviation: causes stand outside."""
_GAP = 0.02
_LEAST = 1.0
"""Half the width of the axis, in percent, where everything agrees."""
_CAUSE: dict[str, Any] = {"va": "center", "color": INK, "fontsize": 8}
_AGREES, _DEVIATES = "agrees, within rounding and interval", "deviates"
_KINDS = {_AGREES: (SERIES[2], MARKERS[0]), _DEVIATES: (SERIES[1], MARKERS[1])}


class _Row(NamedTuple):
    record_id: str
    name: str
    where: tuple[str, str]
    pair: Pair
    deviation: float
    """Percent."""

    @property
    def kind(self) -> str:
        return _AGREES if self.pair.agrees else _DEVIATES

    def percent(self, value: float) -> float:
        return 100 * (value / self.pair.published - 1)


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw a row for every pair of numbers that may be compared."""
    rows = _rows(records)
    groups, left_out = first_of(group_by(rows, lambda row: row.where), "numbers")
    if not groups:
        return None
    names = {where: [row.name for row in members] for where, members in groups.items()}
    figure, axes = case_rows(names, "Deviation of the measured from the published number (%)", _ROW_IN)
    handles: dict[str, Artist] = {}
    for ax, members in zip(axes, groups.values(), strict=True):
        _draw_panel(ax, members, handles)
    legend(figure, list(handles.values()), list(handles))
    words = listed(
        f"{row.name}: {significant(row.pair.measured, 4)} measured, {row.pair.published_text} published, "
        f"{row.deviation:+.1f} %" + (f", likely cause {row.pair.likely}" if row.pair.likely else "")
        for members in groups.values()
        for row in members
    )
    return Drawing(
        figure=figure,
        title="Measured beside published",
        caption="A row is named by the published number. Whisker: the 95 % interval of the measured number, where it "
        "has one. Grey: half a unit of the last digit that was published. Beside a number that deviates stands the "
        "likely cause, which the source does not state. Numbers that are unlike have no deviation: the table names "
        f"what differs.{left_out}",
        alt=f"Deviations of measured from published numbers in percent. {words}.",
        data=make_data(
            (
                *("Record", "Case and number", "Hardware", "Dtype", "Unit", "Published", "Rounding", "Measured"),
                *("Measured, low", "Measured, high", "Deviation (%)", "Agrees", "Likely cause", "Seen", "Source"),
            ),
            (
                (
                    *(row.record_id, row.name, *row.where, row.pair.unit, row.pair.published, row.pair.rounding),
                    *(row.pair.measured, *(row.pair.interval or (None, None)), row.deviation),
                    *("yes" if row.pair.agrees else "no", row.pair.likely, row.pair.seen, plain(row.pair.source)),
                )
                for row in rows
            ),
        ),
    )


def _rows(records: Sequence[Record]) -> list[_Row]:
    names, rows = short_names(records), list[_Row]()
    for record, outcome in measured(records):
        for pair in pairs_of(record, outcome, only_alike=True):
            assert pair.deviation is not None
            number = f"{label_of(pair.name).text} {pair.published_text}{pair.unit and f' {pair.unit}'}"
            seen = ", second-hand" if pair.seen == "second-hand" else ""
            name = label(f"{names[record.record_id]}: {number}{seen}", random=has_random_weights(record))
            where = (label(processor(record)), label(arithmetic(record)))
            rows.append(_Row(record.record_id, name, where, pair, 100 * pair.deviation))
    return rows


def _draw_panel(ax: Axes, rows: Sequence[_Row], handles: dict[str, Artist]) -> None:
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for place, row in enumerate(rows):
        color, marker = _KINDS[row.kind]
        rounding = 100 * row.pair.rounding / row.pair.published
        ax.barh([place], [2 * rounding], 0.5, left=[-rounding], facecolor=MUTED, alpha=0.3, zorder=0)
        if row.pair.interval is not None:
            ax.plot([row.percent(end) for end in row.pair.interval], [place, place], color=color, linewidth=1.2)
        handles[row.kind] = ax.plot([row.deviation], [place], color=color, marker=marker, linestyle="none")[0]
    farthest = [abs(row.percent(end)) for row in rows for end in (row.pair.measured, *(row.pair.interval or ()))]
    half = _ROOM * max(_LEAST, *farthest)
    ax.set_xlim(-half, half)
    for place, row in enumerate(rows):
        if row.pair.likely is not None:
            right = row.deviation > 0
            ends = [row.deviation, *(row.percent(end) for end in row.pair.interval or ())]
            x = max(ends) + _GAP * half if right else min(ends) - _GAP * half
            ax.text(x, place, f"likely: {row.pair.likely}", ha="left" if right else "right", **_CAUSE)
