"""Common parts of figures: their type, colours, panels and legends.

Colours are written as hexadecimal and become CSS variables when the figure is put on the page (`arvbench.reports.svg`),
so that one figure serves light and dark. Colour never carries meaning alone: lines differ in marker or dash as well.

Units    _in inches
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arvbench.reports.numbers import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
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
}
"""Settings under which figures are drawn and written."""

WIDTH_IN = 8.0
_PANEL_HEIGHT_IN = 2.9
_LEGEND_LINE_IN = 0.2
_LABEL_LENGTH = 72
_WIDE_LABEL = 46
"""A legend with a longer label has one column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Figure with its caption and alternative text."""

    figure: Figure
    title: str
    caption: str
    """Reading aid: units, and the comparisons that are allowed."""
    alt: str
    """Alternative text for readers who cannot see the figure."""


def label(text: object, *, random: bool = False) -> str:
    """Make a name safe as a label: one line, not too long, and not hidden (matplotlib drops labels with a leading "_").

    `random` marks a case whose weights are random.
    """
    short = shorten(text, _LABEL_LENGTH)
    short = f" {short}" if short.startswith("_") else short
    return f"{short} (random)" if random else short


def panels(count: int, labels: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` panels, in rows of two when there are several, and room for a legend of `labels`."""
    from matplotlib.figure import Figure

    columns = 1 if count == 1 else 2
    rows = -(-count // columns)
    legend_in = _LEGEND_LINE_IN * -(-len(labels) // _legend_columns(labels))
    figure = Figure(figsize=(WIDTH_IN, rows * _PANEL_HEIGHT_IN + legend_in), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    return figure, [figure.add_subplot(grid[i // columns, i % columns]) for i in range(count)]


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put one legend below the figure."""
    figure.legend(handles, labels, loc="outside lower left", ncols=_legend_columns(labels))


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max((len(label) for label in labels), default=0)
    return 1 if longest > _WIDE_LABEL else 2 if longest > _WIDE_LABEL // 2 else 4


def listed(names: Iterable[str], limit: int = 8) -> str:
    """List distinct names in one sentence: the first `limit`, and the number of the others."""
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - limit
    return ", ".join(distinct[:limit]) + (f" and {more} more" if more > 0 else "")
