"""Large tables cut to their extremes, for a page or a paper; all of their rows stay as data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from arvbench.reports.table import Table

MOST_ROWS = 100
"""Rows of a table that is shown whole."""
MOST_RESULTS = 1000
"""Rows of one whose rows have ids, the results: it is what a reader filters and sorts."""
_EACH = 3
_NUMBERS = (int, float)
"""A tuple is looked through three times as fast as `int | float`, and there is a value for each cell."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows that are shown, and a sentence on how they were chosen; "" for a table that is whole."""

    table: Table
    words: str


def cut(table: Table, keep: Collection[str] = ()) -> Cut:
    """Keep, of a large table, the rows with the least and greatest values of every numeric column, in their order.

    `keep` are ids of rows that stay. A table without numeric columns keeps its first rows.
    """
    count = len(table.rows)
    if count <= (MOST_RESULTS if table.row_ids else MOST_ROWS):
        return Cut(table, "")
    chosen = _extremes(table)
    how = f"those with the {_EACH} least and the {_EACH} greatest values of every column of numbers"
    if not chosen:
        chosen, how = set(range(MOST_ROWS)), "the first"
    places = sorted(chosen | {place for place, row_id in enumerate(table.row_ids) if row_id in keep})
    shown = replace(
        table,
        rows=tuple(table.rows[place] for place in places),
        row_ids=tuple(table.row_ids[place] for place in places) if table.row_ids else (),
        row_targets=tuple(table.row_targets[place] for place in places) if table.row_targets else (),
    )
    return Cut(shown, f"Shown: {len(places)} of {count:,} rows, {how}.")


def _extremes(table: Table) -> set[int]:
    """Return the places of the rows at both ends of every numeric column whose values differ."""
    found = set[int]()
    for number, column in enumerate(table.columns):
        if not column.numeric:
            continue
        keys = [(row[number].sort, place) for place, row in enumerate(table.rows)]
        values = sorted([(key, place) for key, place in keys if isinstance(key, _NUMBERS)])
        if values and values[0][0] != values[-1][0]:
            found |= {place for _, place in values[:_EACH] + values[-_EACH:]}
    return found
