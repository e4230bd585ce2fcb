"""Figures with one named row for each item, below one another: panels for unlike conditions, one legend.

Units    _in inches
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from arvbench.reports.figures.drawing import Margins, label, placed, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGINS = Margins(left_in=2.9, bottom_in=0.55)
_LEGEND_IN = 0.2
_NAME_WIDTH = 36
"""Characters of a line of a name."""


def case_rows(
    names: Mapping[tuple[str, str], Sequence[str]], axis_label: str, row_in: float
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel for each title of two lines, and a row for each of its names, the first on top.

    A row lies at its number, 0, 1 ..., and has height 1; `row_in` is its height on paper.
    """
    heights_in = [_MARGINS.top_in + _MARGINS.bottom_in + row_in * len(rows) for rows in names.values()]
    figure, axes = placed(heights_in, 1, len(names), _MARGINS, _LEGEND_IN)
    for ax, (where, rows) in zip(axes, names.items(), strict=True):
        set_title(ax, *(label(line) for line in where))
        ax.set_xlabel(axis_label)
        ax.set_yticks(range(len(rows)), [textwrap.fill(label(name), _NAME_WIDTH) for name in rows])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.set_ylim(len(rows) - 0.5, -0.5)
    return figure, axes
