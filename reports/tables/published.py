"""Measured numbers beside published ones, with deviation and likely cause where they may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from typing import NamedTuple

from arvbench.reports.blocks import Block, FoldedTables, Text
from arvbench.reports.cases import measured
from arvbench.reports.names import case_column
from arvbench.reports.numbers import number_cell, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.metrics import label_of
from arvbench.results.published.beside import Pair, pairs_of
from arvbench.results.schema import Record

_MOST_UNLIKE = 30
"""Rows of numbers that are unlike, the most alike of them: they serve as orientation."""


class ComparedNumber(NamedTuple):
    """A published number and the record with one of the same kind."""

    record: Record
    pair: Pair


def published_blocks(records: Sequence[Record]) -> list[Block]:
    """Tables of numbers that may be compared and, folded, of those that may not; empty without published ones."""
    found = [
        ComparedNumber(record, pair) for record, outcome in measured(records) for pair in pairs_of(record, outcome)
    ]
    if not found:
        return []
    alike, unlike = [row for row in found if not row.pair.unlike], [row for row in found if row.pair.unlike]
    words = (
        "A deviation stands where model, size, settings and protocol are those of the source. Numbers that are unlike "
        "have none, and the reasons in its place. Rows marked second-hand were seen in somebody else's text."
    )
    tables = [_table("Comparable with published numbers", alike)] if alike else []
    shown = nsmallest(_MOST_UNLIKE, unlike, key=lambda row: len(row.pair.unlike))  # of equals the first
    caption = f"Published numbers of the same models under other conditions ({len(shown)} of {len(unlike)})"
    return [Text(words), *tables, *([FoldedTables((_table(caption, shown),), closed=True)] if shown else [])]


def _table(caption: str, rows: Sequence[ComparedNumber]) -> Table:
    """Write rows; names of cases hold what differs within the table."""
    records = list({row.record.record_id: row.record for row in rows}.values())
    columns: list[Column[ComparedNumber]] = [
        case_column(records),
        Column("Number", cell=lambda row: text_cell(_name(row.pair))),
        Column("Published", numeric=True, cell=lambda row: _published(row.pair)),
        Column("Measured", numeric=True, cell=lambda row: number_cell(row.pair.measured, 4)),
        Column("Deviation", "%", numeric=True, cell=lambda row: _deviation(row.pair)),
        Column("Likely cause", cell=lambda row: text_cell(row.pair.likely or "")),
        Column("Unlike in", cell=lambda row: text_cell(", ".join(row.pair.unlike)), prose=True),
        Column("Source", cell=lambda row: text_cell(row.pair.source), prose=True),
    ]
    return make_table(caption, columns, rows)


def _name(pair: Pair) -> str:
    return f"{pair.name}, {pair.unit}" if pair.unit else label_of(pair.name).text


def _published(pair: Pair) -> Cell:
    flags = ("second-hand",) if pair.seen == "second-hand" else ()
    return Cell(text=pair.published_text, sort=pair.published, flags=flags)


def _deviation(pair: Pair) -> Cell:
    if pair.deviation is None:
        return NOTHING
    text = f"{100 * pair.deviation:+.1f}"
    return Cell(text=text, sort=pair.deviation, tone="good" if pair.agrees else "warn")
