"""Common parts of figures: their type, colours, panels and legends.

Colours are written as hexadecimal and become CSS variables when the figure is put on the page (`arvbench.reports.svg`),
so that one figure serves light and dark. Colour never carries meaning alone: lines differ in marker or dash as well.

Panels have fixed margins, wide enough for ticks, labels and titles of two lines: nothing is measured, and a figure is
drawn once. Its size is bounded, whatever the number of records: `first_of` says what is left out.

Units    _in inches
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Any, TypeVar

from arvbench.reports.data import Data
from arvbench.reports.numbers import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "#1b2127"
MUTED = "#59636e"
GRID = "#dbdfe4"
PAPER = "#fefefe"
SERIES = ("#2b66a8", "#c0561b", "#27815f", "#7d4f9e", "#b3344a", "#1f8494", "#85701a", "#6a7078")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

CSS_VARIABLES: dict[str, str] = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES, start=1)},
}
"""Colour in a figure -> CSS variable of the page."""

RC: dict[Any, Any] = {
    # One name: the page's own fonts take its place, and every text would repeat the list of matplotlib's.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    # Names come from records: a dollar sign must not start mathematics.
    "text.parse_math": False,
    "svg.fonttype": "none",
    # Else ids would be random, and their numbers with them.
    "svg.hashsalt": "arvbench",
}
"""Settings under which figures are drawn and written."""

WIDTH_IN = 8.0
MOST_PANELS, MOST_ITEMS = 8, 24
"""Panels of a figure, and its curves, points or bars."""
_MANY_PANELS, _MANY_ITEMS = 2, 8
"""Multiples of both from which half as many are drawn: that says as much, in half of the time."""
_VERY_MANY = 4
"""Multiple of these from which a quarter is drawn."""
_PANEL_HEIGHT_IN = 2.9
_LEGEND_LINE_IN = 0.2
_LABEL_LENGTH = 72
_TITLE_IN = 0.07
"""Width of a character of a title."""
_WIDE_LABEL = 46
"""A legend with a longer label has one column."""

Key = TypeVar("Key")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Room around the axes of a panel."""

    left_in: float = 0.75
    right_in: float = 0.15
    top_in: float = 0.5
    bottom_in: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Figure with its caption and alternative text."""

    figure: Figure
    title: str
    caption: str
    """Reading aid: units, and the comparisons that are allowed."""
    alt: str
    """Alternative text for readers who cannot see the figure."""
    data: Data
    """Values of all records, those left out of the drawing too."""


def label(text: object, *, random: bool = False) -> str:
    """Make a name safe as a label: one line, not too long, and not hidden (matplotlib drops labels with a leading "_").

    `random` marks a case whose weights are random.
    """
    short = shorten(text, _LABEL_LENGTH)
    short = f" {short}" if short.startswith("_") else short
    return f"{short} (random)" if random else short


def first_of(
    groups: Mapping[Key, Sequence[Item]], things: str, *, most: int = MOST_ITEMS, panels_each: int = 1, cases: int = 0
) -> tuple[dict[Key, list[Item]], str]:
    """Return the groups (key -> items) that a figure has room for, and a sentence about the others, "" for none.

    `things` names the items in the sentence, such as "cases"; `most` of them are shown, of many half as many, of very
    many a quarter, but a group that is begun and no larger than half of `most` is whole. A group has `panels_each`.
    `cases` are those behind the items, where an item stands for several.
    """
    shown: dict[Key, list[Item]] = {}
    count = sum(map(len, groups.values()))
    most_panels = min(
        _fewer(MOST_PANELS, panels_each * len(groups), _MANY_PANELS * MOST_PANELS),
        _fewer(MOST_PANELS, cases, _MANY_ITEMS * MOST_ITEMS),
    )
    room = _fewer(most, max(count, cases), _MANY_ITEMS * most)
    whole = most // 2 if room < most // 2 else 0
    for key, items in groups.items():
        if room <= 0 or panels_each * (len(shown) + 1) > most_panels:
            break
        shown[key] = list(items if len(items) <= whole else items[:room])
        room -= len(shown[key])
    drawn = sum(map(len, shown.values()))
    if drawn == count:
        return shown, ""
    among = f" and {panels_each * len(shown)} of {panels_each * len(groups)} panels" if len(shown) < len(groups) else ""
    return shown, f" Drawn: the first {drawn} of {count} {things}{among}; the tables have all."


def _fewer(most: int, count: int, many: int) -> int:
    """Return `most`, of `many` or more half of it, of very many a quarter."""
    return most if count < many else most // 2 if count < _VERY_MANY * many else most // 4


def panels(count: int, labels: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` panels, in rows of two when there are several, and room for a legend of `labels`."""
    columns = 1 if count == 1 else 2
    rows = -(-count // columns)
    legend_in = _LEGEND_LINE_IN * -(-len(labels) // _legend_columns(labels))
    return placed([_PANEL_HEIGHT_IN] * rows, columns, count, Margins(), legend_in)


def placed(
    heights_in: Sequence[float], columns: int, count: int, margins: Margins, legend_in: float
) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` panels in rows of these heights, above a legend of height `legend_in`."""
    from matplotlib.figure import Figure

    height_in, width_in = sum(heights_in) + legend_in + _LEGEND_LINE_IN, WIDTH_IN / columns
    figure = Figure(figsize=(WIDTH_IN, height_in))
    inner_in = width_in - margins.left_in - margins.right_in
    axes = []
    for place in range(count):
        row, column = divmod(place, columns)
        bottom_in = height_in - sum(heights_in[: row + 1]) + margins.bottom_in
        axes.append(
            figure.add_axes(
                (
                    (column * width_in + margins.left_in) / WIDTH_IN,
                    bottom_in / height_in,
                    inner_in / WIDTH_IN,
                    (heights_in[row] - margins.top_in - margins.bottom_in) / height_in,
                )
            )
        )
    return figure, axes


def set_title(ax: Axes, *lines: str) -> None:
    """Set the title of a panel; a line that is too long for it loses its middle."""
    room_in = WIDTH_IN * ax.get_position().width
    # A place of its own: without it the title looks for ticks above the panel, which takes their measures.
    ax.set_title("\n".join(shorten(line, int(room_in / _TITLE_IN)) for line in lines), y=1.0)


def name_powers(axis: Axis) -> None:
    """Name the powers of ten of a logarithmic axis in a few characters, and nothing between them."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    def name(value: float, _place: int) -> str:
        return f"{value:g}" if 0.01 <= value < 1e4 else f"1e{round(log10(value))}"

    axis.set_major_formatter(FuncFormatter(name))
    axis.set_minor_locator(NullLocator())


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put one legend below the figure."""
    figure.legend(handles, labels, loc="lower left", ncols=_legend_columns(labels), borderaxespad=0.2)


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max((len(label) for label in labels), default=0)
    return 1 if longest > _WIDE_LABEL else 2 if longest > _WIDE_LABEL // 2 else 4


def listed(names: Iterable[str], limit: int = 8) -> str:
    """List distinct names in one sentence: the first `limit`, and the number of the others."""
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - limit
    return ", ".join(distinct[:limit]) + (f" and {more} more" if more > 0 else "")
