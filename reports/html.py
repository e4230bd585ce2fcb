"""HTML writer: one self-contained page, whose content policy forbids every request.

Text from records goes through the template's escaping. Trusted markup comes from this package alone: its style sheet,
its script, words of `blocks.Text`, and figures whose texts the SVG writer has escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from arvbench.reports.answer.statements import Evidence, Statement
from arvbench.reports.blocks import Block, FoldedTables
from arvbench.reports.content import Report
from arvbench.reports.data import Download, download, table_data
from arvbench.reports.extremes import MOST_ROWS, Cut, cut
from arvbench.reports.questions import OPEN, QUESTIONS
from arvbench.reports.sections import ANSWER
from arvbench.reports.svg import InlineFigure
from arvbench.reports.table import MISSING, Cell, Column, Table

_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e[+-]\d+)?")
"""Text that the page's script reads as a number."""
_LONGEST_NAME = 60
SHOWN_ROWS = MOST_ROWS
"""Rows of a table that are laid out at first: a browser takes seconds for a thousand."""
TEMPLATES = Path(__file__).parent / "templates"
_INLINE = (
    (r"`([^`]+)`", r"<code>\1</code>"),
    (r"\*([^*]+)\*", r"<em>\1</em>"),
    (r"\^([^^]+)\^", r"<sup>\1</sup>"),
    (r"\[([^]]+)\]\((#[a-z0-9-]+)\)", r'<a href="\2">\1</a>'),
)


@dataclass(frozen=True, slots=True)
class _Written:
    """Table in HTML."""

    cut: Cut
    rows: Markup
    csv: Download | None
    """All rows, of a table that is cut."""


class WrittenTables:
    """Tables of a page in HTML, the largest part of it; they may be written before its figures are drawn."""

    def __init__(self) -> None:
        # By identity: to compare tables would take longer than to write them.
        self._written: dict[int, _Written] = {}

    def write(self, report: Report) -> None:
        """Write those tables of a report that are not written yet; rows that its answer names are never cut."""
        named = [row for table in report.answer.tables for row in table.row_targets]
        keep = frozenset(named).union(*(statement.record_ids for statement in report.answer.shown))
        tables = [table for block in _blocks(report) for table in _tables(block)]
        self._written |= {id(table): _write_table(table, keep) for table in tables if id(table) not in self._written}
        _template()  # now, while the figures are drawn: to read it takes as long as to fill it

    def of(self, table: Table) -> _Written:
        """Return a table that was written."""
        return self._written[id(table)]


def _tables(block: Block) -> Sequence[Table]:
    return [block] if isinstance(block, Table) else block.tables if isinstance(block, FoldedTables) else []


def _write_table(table: Table, keep: Collection[str]) -> _Written:
    part = cut(table, keep)
    csv = download(anchor(table.caption)[:_LONGEST_NAME], table_data(table)) if part.words else None
    return _Written(part, rows(part.table), csv)


def to_html(report: Report, tables: WrittenTables | None = None) -> str:
    """Write a report as a page; `tables` are those that are already written."""
    tables = WrittenTables() if tables is None else tables
    tables.write(report)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return _template().render(
        report=report,
        written=tables.of,
        linked=partial(linked, targets=_targets(report, tables)),
        head=[section for section in report.sections if section.heading == ANSWER.heading],
        below=[section for section in report.sections if section.heading != ANSWER.heading],
        open=OPEN,
        questions=QUESTIONS,
        shown_rows=SHOWN_ROWS,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


@cache
def _template() -> Template:
    """Return the page without its content."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(anchor=anchor, marked_up=marked_up, kind=lambda block: type(block).__name__)
    return environment.get_template("report.html.j2")


def _blocks(report: Report) -> list[Block]:
    return [block for section in report.sections for block in section.blocks]


def _targets(report: Report, written: WrittenTables) -> frozenset[str]:
    """Return the ids on the page to which findings may lead."""
    blocks = _blocks(report)
    headings = {anchor(section.heading) for section in report.sections}
    figures = {f"figure-{block.name}" for block in blocks if isinstance(block, InlineFigure)}
    tables = [written.of(block).cut.table for block in blocks if isinstance(block, Table)]
    return frozenset(headings | figures | {row_anchor(record) for table in tables for record in table.row_ids})


def linked(statement: Statement, targets: Collection[str]) -> Markup:
    """Write a finding, its evidence as links to those of `targets` that it names."""
    return Markup("").join(_part(part, targets) for part in statement.parts)


def _part(part: str | Evidence, targets: Collection[str]) -> Markup:
    if isinstance(part, str):
        return escape(part)
    target = row_anchor(part.record_id) if part.record_id else anchor(part.section)
    return Markup('<a href="#{}">{}</a>').format(target, part.text) if target in targets else escape(part.text)


def row_anchor(record_id: str) -> str:
    """Turn the id of a record into the id of its row."""
    return f"case-{anchor(record_id)}"


def rows(table: Table) -> Markup:
    """Write the body of a table, the largest part of a page: by hand, since a template takes ten times as long."""
    kinds = [(_opening(column, first=place == 0), column.numeric) for place, column in enumerate(table.columns)]
    lines = []
    for place, (row, marks) in enumerate(zip(table.rows, _row_marks(table), strict=True)):
        marks += " hidden" if place >= SHOWN_ROWS else ""
        cells = [
            f"<{opening}{_rest(cell, numeric)}</{opening[:2]}>"
            for cell, (opening, numeric) in zip(row, kinds, strict=True)
        ]
        lines.append(f"<tr{marks}>{''.join(cells)}</tr>\n")
    return Markup("".join(lines))


def _row_marks(table: Table) -> Sequence[str]:
    """Return the attributes of every row."""
    return [f' id="{row_anchor(record)}"' for record in table.row_ids] or [""] * len(table.rows)


def _opening(column: Column[Any], *, first: bool) -> str:
    """Return the tag of a column's cells with its attributes."""
    marks = (("number", column.numeric), ("code", column.code), ("prose", column.prose))
    kinds = " ".join(name for name, has in marks if has)
    return ('th scope="row"' if first else "td") + (f' class="{kinds}"' if kinds else "")


@lru_cache(maxsize=2**13)
def _rest(cell: Cell, numeric: bool) -> str:
    """Return the last attribute of a cell's tag, and what it encloses; rows share most of their words."""
    return f"{_sort_key(cell, numeric)}>{_value(cell)}"


def _sort_key(cell: Cell, numeric: bool) -> str:
    """Return the attribute with the sort key, "" where the script finds the same key in the text.

    An empty key sorts behind all others.
    """
    key = cell.sort
    if key is None or key != key:
        found = cell.text == MISSING or (numeric and not _NUMBER.fullmatch(cell.text))
        return "" if found else ' data-sort=""'
    if not isinstance(key, str):
        key = f"{key:.6g}".replace("inf", "Infinity")
        if numeric and _NUMBER.fullmatch(cell.text) and float(cell.text.replace(",", "")) == float(key):
            return ""
    return "" if key == cell.text and key != MISSING else f' data-sort="{escape(key)}"'


def _value(cell: Cell) -> str:
    text = escape(cell.text)
    shown = text if cell.tone == "plain" else f'<span class="status {cell.tone}">{text}</span>'
    shown = f"<strong>{shown}</strong>" if cell.strong else shown
    detail = f" <small>{escape(cell.detail)}</small>" if cell.detail else ""
    flags = "".join(f' <span class="mark">{escape(flag)}</span>' for flag in cell.flags)
    return f"{shown}{detail}{flags}"


def anchor(text: str) -> str:
    """Turn a heading into the id of its section."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def marked_up(words: str) -> Markup:
    """Turn the markup of a `Text` into HTML: `code`, *emphasis*, ^superscripts^ and [links](#section)."""
    html = str(escape(words))
    for pattern, element in _INLINE:
        html = re.sub(pattern, element, html)
    return Markup(html)
