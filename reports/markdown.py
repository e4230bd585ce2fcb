"""The report as Markdown, for a pull request or a terminal. Figures and pictures are only on the page.

Everything from records is text: whatever Markdown or HTML would make of it is neutralised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from arvbench.reports.content import Report
from arvbench.reports.numbers import plain
from arvbench.reports.reproduction import SUITE_FILE
from arvbench.reports.table import Cell, Column, Table

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_SPECIAL = re.compile(r"[&<>@\\`*_\[\]|~$#]|://|www\.")


def to_markdown(report: Report) -> str:
    """Write the report."""
    parts = [f"# {escape(report.title)}", _facts(report.facts)]
    if report.notices:
        parts.append("\n".join(f"- {escape(notice)}" for notice in report.notices))
    sections: list[tuple[str, Sequence[Table]]] = [
        ("Results", [report.results]),
        ("Cases without a speed", [report.failures]),
        ("Quality", [report.quality, report.findings, report.protocols]),
        ("Latency", [report.scopes, *report.steps]),
        ("Cache", [report.cache]),
        ("Memory", [report.memory]),
        ("Correctness", [report.correctness]),
        ("Settings", [report.deviations, report.recipes, report.settings, report.weights]),
        ("Environment", report.environments),
    ]
    for heading, section in sections:
        if any(section):
            parts.append(f"## {escape(heading)}")
            parts.extend(_table(table) for table in section if table)
    parts.append(f"## How to reproduce\n\nSave as `{SUITE_FILE}`:")
    parts.append(_block(report.suite.splitlines()))
    parts.append("Then run:")
    parts.append(_block(report.commands))
    return "\n\n".join(parts) + "\n"


def _block(lines: Sequence[str]) -> str:
    """Preformatted lines; indented, so that nothing in them can end the block."""
    return "\n".join(f"    {line}" for line in lines)


def escape(text: object) -> str:
    """Text that Markdown, and HTML inside it, shows as it is, on one line."""
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


def _heading(column: Column) -> str:
    note = f" [{column.note}]" if column.note else ""
    return escape(f"{column.heading}{note}")


def _cell(cell: Cell) -> str:
    detail = f" ({escape(cell.detail)})" if cell.detail else ""
    flags = "".join(f" *({escape(flag)})*" for flag in cell.flags)
    return f"{escape(cell.text)}{detail}{flags}"
