"""The result table that `arvbench run` prints when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arvbench.reports.cases import case_cell, case_names
from arvbench.reports.numbers import shorten
from arvbench.reports.table import Cell, Column, make_table
from arvbench.reports.tables.quality import quality_cells, quality_columns
from arvbench.reports.tables.results import (
    cache_peak_cell,
    latency_cell,
    peak_memory_cells,
    peak_memory_columns,
    reason,
    status_cell,
    throughput_cell,
)
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

_STYLES = {"plain": "", "good": "green", "bad": "bold red", "warn": "yellow"}
_REASON_LENGTH = 300
_NAME_WIDTH = 18
_QUALITY = ("fid", "label-accuracy")
"""Metrics that have room in a terminal; the report has all."""


def terminal_table(records: Sequence[Record]) -> RichTable:
    """The headline numbers as a Rich table; reasons of cases without a speed stand below it.

    Names are plain text: Rich markup and control characters in them do nothing.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    names = case_names(records)
    columns = [
        Column(label="Case"),
        Column(label="Status"),
        Column(label="images/s", numeric=True),
        Column(label="ms/image", numeric=True),
        *peak_memory_columns(),
        Column(label="KV peak", unit="MiB", numeric=True),
        *quality_columns(records, _QUALITY),
    ]
    rows = [
        [
            case_cell(record, names),
            status_cell(record.status),
            throughput_cell(record),
            latency_cell(record, "images"),
            *peak_memory_cells(record),
            cache_peak_cell(record),
            *quality_cells(record, records, _QUALITY),
        ]
        for record in records
    ]
    table = make_table("Results", columns, rows)
    rich = RichTable(
        title=Text("Results"), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for place, column in enumerate(table.columns):
        heading = Text("\n".join(part for part in (column.label, column.unit, column.note) if part))
        longest = max((len(row[place].text) for row in table.rows), default=1)
        # On a narrow terminal headings wrap, numbers do not; columns of a fixed width are never squeezed.
        rich.add_column(
            heading,
            justify="right" if column.numeric else "left",
            min_width=longest if column.numeric else None,
            width=None if column.numeric else min(longest, _NAME_WIDTH),
            overflow="fold",
        )
    for row in table.rows:
        rich.add_row(*(_cell_text(cell) for cell in row))
    reasons = [
        f"{names[record.record_id]}: {record.status.value}: {shorten(reason(record), _REASON_LENGTH)}"
        for record in records
        if reason(record)
    ]
    if reasons:
        rich.caption = Text("\n".join(reasons))
    return rich


def _cell_text(cell: Cell) -> Text:
    from rich.text import Text

    text = Text(cell.text, style=_STYLES[cell.tone])
    for flag in cell.flags:
        text.append(f"\n{flag}", style="yellow")
    return text
