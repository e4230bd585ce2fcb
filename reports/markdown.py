"""Markdown writer, for a pull request or a terminal. Figures and pictures are only on the page.

Text from records stays text: characters that Markdown or HTML would interpret are neutralised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from arvbench.reports.blocks import Block, Code, FoldedTables, Passage, Pictures, Terms, Text
from arvbench.reports.content import Report
from arvbench.reports.numbers import plain
from arvbench.reports.svg import InlineFigure
from arvbench.reports.table import Cell, Column, Table

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_SPECIAL = re.compile(r"[&<>@\\`*_\[\]|~$#]|://|www\.")


def to_markdown(report: Report) -> str:
    """Write a report as Markdown."""
    parts = [f"# {escape(report.title)}", _facts(report.facts)]
    if report.notices:
        parts.append("\n".join(f"- {escape(notice)}" for notice in report.notices))
    for section in report.sections:
        if blocks := [text for block in section.blocks if (text := _block(block))]:
            parts += [f"## {escape(section.heading)}", *blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    """Return the Markdown of one block; empty for blocks that only the page shows."""
    match block:
        case Text(short=words):
            return words
        case Table():
            return _table(block)
        case FoldedTables(tables=tables):
            return "\n\n".join(_table(table) for table in tables)
        case Code(text=text):
            # Indented, so that no line can end the block.
            return "\n".join(f"    {line}" for line in text.splitlines())
        case InlineFigure() | Pictures() | Passage() | Terms():
            return ""


def escape(text: object) -> str:
    """Escape text for one line of Markdown, and for the HTML inside it."""
    return _SPECIAL.sub(lambda match: _neutral(match[0]), plain(text))


def _neutral(token: str) -> str:
    if token == "://":
        return "&#58;//"
    if token == "www.":
        return "www&#46;"
    return _ENTITIES.get(token) or f"\\{token}"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "\n".join(f"| {escape(label)} | {escape(text)} |" for label, text in facts)
    return f"| | |\n| --- | --- |\n{rows}"


def _table(table: Table) -> str:
    header = " | ".join(_heading(column) for column in table.columns)
    rule = " | ".join("---:" if column.numeric else "---" for column in table.columns)
    rows = "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in table.rows)
    return f"**{escape(table.caption)}**\n\n| {header} |\n| {rule} |\n{rows}"


def _heading(column: Column[Any]) -> str:
    note = f" [{column.note}]" if column.note else ""
    return escape(f"{column.heading}{note}")


def _cell(cell: Cell) -> str:
    detail = f" ({escape(cell.detail)})" if cell.detail else ""
    flags = "".join(f" *({escape(flag)})*" for flag in cell.flags)
    return f"{escape(cell.text)}{detail}{flags}"
