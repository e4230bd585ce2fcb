"""Views of tables for tests: one column, and the text that a terminal shows."""

from __future__ import annotations

from rich.console import Console

from arvbench.reports.table import Cell, Table
from arvbench.reports.tables.terminal import terminal_table
from arvbench.results.schema import Record


def column(table: Table, label: str) -> list[Cell]:
    (place,) = [i for i, c in enumerate(table.columns) if c.label == label]
    return [row[place] for row in table.rows]


def in_terminal(*records: Record, width: int = 120, color: bool = False) -> str:
    console = Console(width=width, color_system="truecolor", force_terminal=True) if color else Console(width=width)
    with console.capture() as capture:
        console.print(terminal_table(records, width=width))
    return capture.get()
