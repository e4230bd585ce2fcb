"""Numbers over commits, with change points and the anchors of the gate.

Units    times ms, memory MiB, quality in the metric's own
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from statistics import median
from typing import TYPE_CHECKING, Final

from arvbench.reports.data import Data, make_data
from arvbench.reports.figures.drawing import INK, MUTED, SERIES, Drawing, label, legend, listed, panels, set_title
from arvbench.reports.numbers import plain
from arvbench.reports.tables.changes import change_text
from arvbench.reports.tables.history import SHORT, UNITS, marked_rows
from arvbench.results.history import History, NumberHistory

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

MOST_SERIES: Final = 8
_MOST_TICKS: Final = 6
_POINT, _LEVEL, _CHANGE = "commit, median of its launches", "median between change points", "change point"
_DRIFT = "drift"
_ANCHORS = {"accepted": ("accepted baseline", "--"), "release": ("release baseline", ":")}


def draw_history(history: History) -> Drawing | None:
    """Draw the series with change points, the worst first, then times of whole images; None without any series."""
    chosen = _chosen(history)
    if not chosen:
        return None
    labels = [_POINT, _LEVEL, _CHANGE, _DRIFT, *(text for text, _ in _ANCHORS.values())]
    figure, axes = panels(len(chosen), labels)
    handles: dict[str, Artist] = {}
    for ax, number in zip(axes, chosen, strict=True):
        handles |= _draw_series(ax, number)
    shown = [text for text in labels if text in handles]
    legend(figure, [handles[text] for text in shown], shown)
    count = len(history.numbers)
    left_out = f" Drawn: {len(chosen)} of {count} series; the table has all." if len(chosen) < count else ""
    return Drawing(
        figure=figure,
        title="Numbers over commits",
        caption="The oldest commit is on the left; distances are not times. Axes do not begin at 0." + left_out,
        alt=f"Line plots of numbers over commits. {listed(map(_in_words, chosen))}.",
        data=_data(history),
    )


def _data(history: History) -> Data:
    """Return every point of every series."""
    headings = ("Machine", "Harness", "Case", "Number", "Unit", "Commit", "Began", "Value", "Change point")
    return make_data(
        headings,
        [
            (number.hardware, number.method, number.case, number.number, number.unit, point.commit,
             point.at.isoformat(), point.value, "yes" if place in {c.index for c in number.change_points} else "no")
            for number in history.numbers
            for place, point in enumerate(number.points)
        ],
    )  # fmt: skip


def _chosen(history: History) -> Sequence[NumberHistory]:
    """Return the series to draw: of every case its worst number, then its second, those with change points first."""
    marked = [row.number for row in marked_rows(history)]
    whole = [number for number in history.numbers if number.number == "images" and len(number.points) > 1]
    by_case: dict[tuple[str, str, str], list[NumberHistory]] = {}
    for number in (*marked, *whole):
        of_case = by_case.setdefault((number.case, number.hardware, number.method), [])
        if number not in of_case:
            of_case.append(number)
    rounds = zip_longest(*by_case.values())
    return [number for numbers in rounds for number in numbers if number is not None][:MOST_SERIES]


def _draw_series(ax: Axes, number: NumberHistory) -> dict[str, Artist]:
    """Draw one series, and return its artists by their names in the legend."""
    unit, divisor = UNITS.get(number.unit, (plain(number.unit), 1.0))
    values = [point.value / divisor for point in number.points]
    set_title(ax, label(f"{number.number} of {number.case}"), label(number.hardware))
    ax.set_xlabel("Commit")
    ax.set_ylabel(unit or label(number.number))
    handles: dict[str, Artist] = {_POINT: ax.plot(range(len(values)), values, "o", color=SERIES[0], markersize=3.5)[0]}
    for anchor in number.anchors:
        text, dashes = _ANCHORS[anchor.name]
        handles[text] = ax.axhline(anchor.value / divisor, color=MUTED, linestyle=dashes, linewidth=1.4)
    if number.drift is not None:
        ends = median(values[:5]), median(values[-5:])
        handles[_DRIFT] = ax.plot([0, len(values) - 1], ends, color=SERIES[4], linestyle="-.", linewidth=1.4)[0]
        _ticks(ax, number)
        return handles
    bounds = [0, *(change.index for change in number.change_points), len(values)]
    for begin, end in pairwise(bounds):
        level = median(values[begin:end])
        handles[_LEVEL] = ax.plot([begin - 0.4, end - 0.6], [level] * 2, color=INK, linewidth=1.2)[0]
    for change in number.change_points:
        handles[_CHANGE] = ax.axvline(change.index - 0.5, color=SERIES[1], linewidth=1.4)
    _ticks(ax, number)
    return handles


def _ticks(ax: Axes, number: NumberHistory) -> None:
    """Name the commits of change points, and both ends."""
    last = len(number.points) - 1
    places = dict.fromkeys([0, last, *(change.index for change in number.change_points)])
    room, kept = max(1, last // _MOST_TICKS), list[int]()
    for place in places:
        if all(abs(place - other) >= room for other in kept):
            kept.append(place)
    ax.set_xticks(kept, [plain(number.points[place].commit)[:8] for place in kept], fontsize=7)
    ax.set_xlim(-0.8, last + 0.8)


def _in_words(number: NumberHistory) -> str:
    changes = [f"{change_text(change.ratio)} at {plain(change.commit)[:SHORT]}" for change in number.change_points]
    drift = [f"a drift of {change_text(1 + number.drift)}"] if number.drift is not None else []
    found = ", ".join([*changes, *drift]) or "no change point"
    return f"{number.number} of {number.case}, {len(number.points)} commits: {found}"
