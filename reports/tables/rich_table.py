"""A table drawn for a terminal: no row wraps, and columns for which there is no room are named below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arvbench.reports.table import Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

_STYLES = {"plain": "", "good": "green", "bad": "bold red", "warn": "yellow"}
_GAP = 2
"""Spaces between columns."""


def titled_table(title: str, table: Table, width: int, *, naming: int) -> list[RenderableType]:
    """Draw a title, the table without the columns that do not fit, and a line that names these.

    The first `naming` columns name a row: they, and one more, are shown at any width, and fold when they must.
    """
    from rich.text import Text

    widths = column_widths(table)
    least = naming + 1
    fitting = [n for n in range(least, len(widths) + 1) if sum(widths[:n]) + _GAP * (n - 1) <= width]
    shown = max(fitting, default=least)
    left_out = [" ".join(_heading(column)) for column in table.columns[shown:]]
    return [
        Text(title, style="bold"),
        _drawn(table, shown, folding=0 if fitting else naming),
        *([Text(f"left to the report, for want of room: {', '.join(left_out)}", style="dim")] if left_out else []),
    ]


def column_widths(table: Table) -> list[int]:
    """Return the characters that each column takes."""
    return [
        max(map(len, [*_heading(column), *(row[place].text for row in table.rows)]))
        for place, column in enumerate(table.columns)
    ]


def _drawn(table: Table, shown: int, *, folding: int) -> RichTable:
    """Draw the first `shown` columns, of which the first `folding` may fold."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for place, column in enumerate(table.columns[:shown]):
        rich.add_column(
            Text("\n".join(_heading(column))),
            justify="right" if column.numeric else "left",
            no_wrap=place >= folding,
            overflow="fold",
        )
    for row in table.rows:
        rich.add_row(*(Text(cell.text, style=_STYLES[cell.tone]) for cell in row[:shown]))
    return rich


def _heading(column: Column[Any]) -> list[str]:
    return [line for line in (column.label, column.note) if line]
