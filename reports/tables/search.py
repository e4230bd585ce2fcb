"""Searches: what was looked for, the best of all tries, and every try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from arvbench.reports.blocks import Block, Text
from arvbench.reports.names import case_column
from arvbench.reports.numbers import count_cell, number_cell, text_cell
from arvbench.reports.table import Cell, Column, Table, make_table
from arvbench.reports.tables.results import STATUS, reason
from arvbench.results.metrics import label_of
from arvbench.results.schema import Record
from arvbench.results.search import MARK, UNITS, Search, searches, value_of

_DIGITS = 4


class _Tried(NamedTuple):
    """A row of the table of tries."""

    record: Record
    search: Search

    @property
    def what(self) -> str:
        return self.record.case_id.partition(MARK)[2]


def search_blocks(records: Sequence[Record]) -> list[Block]:
    """Explain searches, and list them with all of their tries; empty where there are none."""
    found = searches(records)
    if not found:
        return []
    text = Text(
        "The best of k tries is chosen by the number that is shown for it, and so looks better than it is, the more so "
        "the larger k and the noise; the search counts every try, failures included. A confirmation measures the "
        "best point once more, with other noise for its images, and has no part in the choice.",
        short="The best of k tries is chosen by its own number, and so looks better than it is.",
    )
    return [text, _searches_table(records, found), _tries_table(records, found)]


def _searches_table(records: Sequence[Record], found: Sequence[Search]) -> Table:
    bests = [_Tried(search.best or search.tries[0], search) for search in found]
    columns: list[Column[_Tried]] = [
        case_column(records),
        Column("Looked for", cell=lambda row: text_cell(_looked_for(row.search))),
        Column("Over", code=True, cell=lambda row: text_cell(_over(row.search))),
        Column("Tries", numeric=True, cell=lambda row: count_cell(row.search.count)),
        Column("Best", numeric=True, cell=lambda row: _value(row.search.best, row.search)),
        Column("Confirmed", numeric=True, cell=lambda row: _value(row.search.confirmed, row.search)),
    ]
    return make_table("Searches, and the best of each", columns, bests)


def _tries_table(records: Sequence[Record], found: Sequence[Search]) -> Table:
    rows = [_Tried(record, search) for search in found for record in (*search.tries, *search.confirmations)]
    columns: list[Column[_Tried]] = [
        case_column(records),
        Column("Which is", cell=lambda row: text_cell(row.what)),
        Column("Point", code=True, cell=lambda row: text_cell(_point(row))),
        Column("Looked for", cell=lambda row: text_cell(_looked_for(row.search))),
        Column("Value", numeric=True, cell=lambda row: _value(row.record, row.search)),
        Column("Status", cell=lambda row: STATUS.cell(row.record)),
        Column("Reason", prose=True, cell=lambda row: text_cell(reason(row.record))),
    ]
    return make_table("All tries, in order", columns, rows)


def _looked_for(search: Search) -> str:
    """Return "most images/s", "least FID"."""
    objective = search.objective
    name = label_of(objective.name).text if objective.is_metric else objective.name
    unit = UNITS.get(objective.name, "")
    named = f"{name} ({unit})" if unit and unit != name else name
    protocol = f", {objective.protocol}" if objective.protocol else ""
    return f"{'least' if objective.better == 'lower' else 'most'} {named}{protocol}"


def _over(search: Search) -> str:
    parts = []
    for key, axis in zip(search.request.over, search.request.axes, strict=True):
        few = [*axis] if len(axis) <= 6 else [*axis[:2], "...", axis[-1]]
        parts.append(f"{key}: {', '.join(map(str, few))}")
    return "; ".join(parts)


def _point(row: _Tried) -> str:
    pairs = zip(row.search.request.over, row.search.point_of(row.record), strict=True)
    return ", ".join(f"{key.removeprefix('settings.')}={value}" for key, value in pairs)


def _value(record: Record | None, search: Search) -> Cell:
    return number_cell(None if record is None else value_of(record, search.objective), _DIGITS)
