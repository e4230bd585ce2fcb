"""Markdown writers: the answer in at most 60 lines, for a pull request, and all tables. Figures are only on the page.

Text from records stays text: characters that Markdown or HTML would interpret are neutralised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from arvbench.reports.blocks import Block, Code, Findings, FoldedTables, Passage, Pictures, Strip, Terms, Text
from arvbench.reports.content import Report
from arvbench.reports.numbers import plain
from arvbench.reports.reproduction import reproduction_commands
from arvbench.reports.svg import InlineFigure
from arvbench.reports.table import Cell, Column, Table

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_SPECIAL = re.compile(r"[&<>@\\`*_\[\]|~$#]|://|www\.")


MOST_LINES = 60
_MOST_ROWS = 24
"""Rows of all tables together."""
_MOST_NOTICES = 5


def to_markdown(report: Report) -> str:
    """Write the answer of a report, what changed and what to know, in at most `MOST_LINES` lines."""
    answer, room = report.answer, _MOST_ROWS
    parts = [f"# {escape(report.title)}", escape(answer.sentence)]
    if answer.shown:
        parts.append("\n".join(f"- {escape(statement.text)}" for statement in answer.shown))
    for table in [*_changes(report), *answer.tables]:
        if room > 0 and table:
            parts.append(_table(table, most=room))
            room -= len(table.rows) + 4
    warnings = [*answer.cautions, *report.notices]
    shown, more = warnings[:_MOST_NOTICES], len(warnings) - _MOST_NOTICES
    parts.append("\n".join([f"- {escape(text)}" for text in shown] + ([f"- and {more} more"] if more > 0 else [])))
    commands = ", ".join(f"`{command}`" for command in reproduction_commands(report.records))
    parts.append(f"Again: save the suite under *How to reproduce* of the page, then {commands}")
    parts.append(" · ".join(f"{escape(label)}: {escape(text)}" for label, text in report.facts))
    return "\n\n".join(filter(None, parts)) + "\n"


def _changes(report: Report) -> list[Table]:
    return [
        block
        for section in report.sections
        if section.heading in ("Changes", "History")
        for block in section.blocks
        if isinstance(block, Table)
    ]


def to_tables(report: Report) -> str:
    """Write all tables of a report as Markdown."""
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
        case Findings():
            lines = [f"- {escape(statement.text)}" for statement in block.statements]
            return "\n\n".join(filter(None, [escape(block.sentence), "\n".join(lines), *map(escape, block.cautions)]))
        case InlineFigure() | Strip() | Pictures() | Passage() | Terms():
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


def _table(table: Table, most: int | None = None) -> str:
    """Write a table; of more than `most` rows the first, with a line that says so."""
    left_out = len(table.rows) - len(table.rows[:most])
    more = f"\n\n{left_out} more rows are on the page." if left_out else ""
    return f"**{escape(table.caption)}**\n\n{table_lines(table, most)}{more}"


def table_lines(table: Table, most: int | None = None) -> str:
    """Return the lines of a table, without its caption; of more than `most` rows the first."""
    header = " | ".join(_heading(column) for column in table.columns)
    rule = " | ".join("---:" if column.numeric else "---" for column in table.columns)
    rows = "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in table.rows[:most])
    return f"| {header} |\n| {rule} |\n{rows}"


def _heading(column: Column[Any]) -> str:
    note = f" [{column.note}]" if column.note else ""
    return escape(f"{column.heading}{note}")


def _cell(cell: Cell) -> str:
    detail = f" ({escape(cell.detail)})" if cell.detail else ""
    flags = "".join(f" *({escape(flag)})*" for flag in cell.flags)
    text = f"**{escape(cell.text)}**" if cell.strong else escape(cell.text)
    return f"{text}{detail}{flags}"
