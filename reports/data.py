"""Values behind a figure or a table, as data: rows of plain values under headings with units, written as CSV."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from arvbench.reports.numbers import plain
from arvbench.reports.table import MISSING, Cell, Column, Table

Value = str | float | None
"""A number, words, or nothing."""

_FORMULA = ("=", "+", "-", "@")
"""Beginnings of text that a spreadsheet would compute."""
_MOST_PLAIN_BYTES = 16 * 2**10
"""Larger data is compressed on the page: names repeat from row to row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Rows of values; every row is as long as `headings`."""

    headings: tuple[str, ...]
    """Each with its unit in brackets, where it has one."""
    rows: tuple[tuple[Value, ...], ...]


def make_data(headings: Sequence[str], rows: Iterable[Sequence[Value]]) -> Data:
    return Data(headings=tuple(headings), rows=tuple(map(tuple, rows)))


def table_data(table: Table) -> Data:
    """Return all values of a table with their full precision; details and marks of cells have columns of their own."""
    parts = [part for place, column in enumerate(table.columns) for part in _parts(table, place, column)]
    return Data(
        headings=tuple(heading for heading, _ in parts),
        rows=tuple(zip(*(values for _, values in parts), strict=True)),
    )


def joined_data(tables: Sequence[Table]) -> Data:
    """Return the rows of several tables as one, the caption of each in the first column."""
    parts = [(table.caption, table_data(table)) for table in tables]
    headings = list(dict.fromkeys(heading for _, data in parts for heading in data.headings))
    rows = [
        (caption, *(named.get(heading) for heading in headings))
        for caption, data in parts
        for row in data.rows
        for named in [dict(zip(data.headings, row, strict=True))]
    ]
    return make_data(("Table", *headings), rows)


def _parts(table: Table, place: int, column: Column[Any]) -> list[tuple[str, list[Value]]]:
    """Return the columns of data that a column of cells becomes: (heading, values)."""
    cells = [row[place] for row in table.rows]
    heading = f"{column.heading} [{column.note}]" if column.note else column.heading
    parts: list[tuple[str, list[Value]]] = [(heading, _numbers(cells) if column.numeric else list(map(_words, cells)))]
    details: list[Value] = [cell.detail for cell in cells]
    if any(details):
        parts.append((f"{heading}: detail", details))
    if any(cell.flags for cell in cells):
        parts.append((f"{heading}: marks", ["; ".join(cell.flags) for cell in cells]))
    return parts


def _numbers(cells: Sequence[Cell]) -> list[Value]:
    """Return the numbers that cells sort by, and the words of those without one."""
    # A tuple is looked through three times as fast as `int | float`, and a large page has a hundred thousand cells.
    return [cell.sort if isinstance(cell.sort, (int, float)) else _words(cell) for cell in cells]


def _words(cell: Cell) -> Value:
    return None if cell.text == MISSING else cell.text


def to_csv(data: Data) -> str:
    """Write data as CSV (RFC 4180, line feeds); no text in it begins as a formula would."""
    # By hand: `csv` looks at every character of every field, and a large page has half a million fields.
    lines = [
        ",".join([_field(v) if isinstance(v, str) else "" if v is None else f"{v:.10g}" for v in row])
        for row in (data.headings, *data.rows)
    ]
    return "\n".join(line or '""' for line in lines) + "\n"


@lru_cache(maxsize=2**14)
def _field(text: str) -> str:
    """Return one line that no spreadsheet computes, in quotes where it needs them; names repeat from row to row."""
    text = plain(text)
    text = f"'{text}" if text.startswith(_FORMULA) else text
    return '"{}"'.format(text.replace('"', '""')) if '"' in text or "," in text else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Link to a file that the page holds."""

    file: str
    href: str
    """Data URI: no script and no network is needed to save it."""
    rows: int


def download(name: str, data: Data) -> Download:
    """Put data into a link as `name`.csv; compressed, as `name`.csv.gz, when it is large."""
    text = to_csv(data).encode()
    if len(text) <= _MOST_PLAIN_BYTES:
        href, file = f"data:text/csv;charset=utf-8,{quote(text, safe=_SAFE)}", f"{name}.csv"
    else:
        packed = base64.b64encode(gzip.compress(text, _LEVEL, mtime=0)).decode("ascii")
        href, file = f"data:application/gzip;base64,{packed}", f"{name}.csv.gz"
    return Download(file=file, href=href, rows=len(data.rows))


_LEVEL = 6
"""The highest, 9, takes half as long again and saves a hundredth."""
_SAFE = "-_.!~*'(),;:/?@=+$ "
"""Characters that stand for themselves in a data URI within a quoted attribute."""
