"""The answer of a report for a terminal: a sentence, findings, and a table with one row for each model.

No row of the table wraps. "*" marks the best of a column and what is not shown to differ from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arvbench.reports.answer.answer import Answer
from arvbench.reports.table import Cell, Column, Table
from arvbench.reports.tables.rich_table import titled_table

if TYPE_CHECKING:
    from rich.console import RenderableType

_MARKED = "* the best, and what is not shown to differ from it"


def terminal_answer(answer: Answer, *, width: int = 80) -> RenderableType:
    """Draw the answer for a terminal of `width` columns; names are plain text."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    findings = RichTable.grid(padding=(0, 1))
    for statement in answer.shown:
        findings.add_row(Text("-"), Text(statement.text))
    parts: list[RenderableType] = [Text(answer.sentence), Text()]
    if answer.shown:
        parts += [findings, Text()]
    for table in filter(None, answer.tables):
        parts += [*titled_table(table.caption, _narrow(table), width, naming=1), Text()]
    if any(cell.strong for table in answer.tables for row in table.rows for cell in row):
        parts.append(Text(_MARKED, style="dim"))
    return Group(*parts, *(Text(caution, style="dim") for caution in answer.cautions), Text())


def _narrow(table: Table) -> Table:
    """Shorten headings, and mark what is strong by a character of its own place."""
    marked = [any(row[place].strong for row in table.rows) for place in range(len(table.columns))]
    return replace(
        table,
        columns=tuple(map(_heading, table.columns)),
        rows=tuple(
            tuple(_marked(cell) if has else cell for cell, has in zip(row, marked, strict=True)) for row in table.rows
        ),
    )


def _heading(column: Column[object]) -> Column[object]:
    """Put the unit below the label, and a protocol id away: the report has it."""
    batch = column.note if column.note.startswith("batch ") else ""
    label = (
        column.unit if column.label == "Throughput" else f"{column.label.removesuffix(' peak')} {column.unit}".strip()
    )
    return replace(column, label=label.replace("Peak memory", "Memory"), unit="", note=batch)


def _marked(cell: Cell) -> Cell:
    return cell._replace(text=f"{cell.text} {'*' if cell.strong else ' '}")
