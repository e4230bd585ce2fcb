"""LaTeX writer: the tables of a report as fragments for a paper, in booktabs.

Text from records stays text: every character that LaTeX would interpret is escaped, and one that pdfLaTeX has no glyph
for is named by its code point.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from arvbench.reports.blocks import Block, FoldedTables
from arvbench.reports.content import Report
from arvbench.reports.extremes import cut
from arvbench.reports.numbers import plain
from arvbench.reports.table import Cell, Column, Table

_WIDE = 6
"""A table of more columns is scaled to the width of the text."""
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"\textquotedblright{}",
    # Behind the end of a row they would be an option of it.
    "[": "{[}", "]": "{]}", "*": "{*}",
    # Two in a row would become a dash.
    "-": "-{}",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{INFINITY}": r"$\infty$", "\N{MIDDLE DOT}": r"\textperiodcentered{}", "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    "\N{DEGREE SIGN}": r"\textdegree{}", "\N{MICRO SIGN}": r"$\mu$", "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}  # fmt: skip


def to_latex(report: Report) -> str:
    """Write the tables of a report, the summary first: one float each, under a comment with its section."""
    fragments = [
        fragment
        for section in report.sections
        for number, table in enumerate(_tables(section.blocks), start=1)
        for fragment in (f"% {_comment(section.heading)}", _float(table, f"{_label(section.heading)}-{number}"))
    ]
    head = (f"% {_comment(report.title)}", r"% Needs \usepackage{booktabs} and \usepackage{graphicx}.")
    return "\n".join([*head, *fragments]) + "\n"


def _tables(blocks: Iterable[Block]) -> list[Table]:
    tables = list[Table]()
    for block in blocks:
        if isinstance(block, Table):
            tables.append(block)
        elif isinstance(block, FoldedTables):
            tables.extend(block.tables)
    return tables


def _comment(text: str) -> str:
    """Return text that stays a comment, on one line."""
    return "".join(char for char in plain(text) if char.isascii())


def _label(text: str) -> str:
    return "".join(char if char.isalnum() and char.isascii() else "-" for char in text.lower())


def _float(table: Table, label: str) -> str:
    """Write one table; of a large one the extremes."""
    shown = cut(table)
    caption = f"{escape(table.caption)}. {escape(shown.words)}" if shown.words else escape(table.caption)
    wide = len(table.columns) > _WIDE
    lines = (
        r"\begin{table}[htbp]",
        r"\centering\footnotesize",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:arvbench-{label}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{@{{}}{''.join(map(_alignment, table.columns))}@{{}}}}",
        r"\toprule",
        *_headings(table.columns),
        r"\midrule",
        *(_row(map(_cell, row)) for row in shown.table.rows),
        r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""),
        r"\end{table}",
    )
    return "\n".join(lines) + "\n"


def _alignment(column: Column[Any]) -> str:
    return "r" if column.numeric else r"p{0.3\linewidth}" if column.prose else "l"


def _headings(columns: Iterable[Column[Any]]) -> list[str]:
    """Write the labels, then their units and notes where any column has one."""
    columns = list(columns)
    labels = [[column.label for column in columns], [column.unit for column in columns], [c.note for c in columns]]
    return [_row(map(escape, line)) for number, line in enumerate(labels) if number == 0 or any(line)]


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _cell(cell: Cell) -> str:
    """Write a cell: the best of its column in bold, the interval small, marks in italics."""
    text = rf"\textbf{{{escape(cell.text)}}}" if cell.strong else escape(cell.text)
    detail = rf" {{\scriptsize ({escape(cell.detail)})}}" if cell.detail else ""
    marks = "".join(rf" \emph{{({escape(flag)})}}" for flag in cell.flags)
    return f"{text}{detail}{marks}"


def escape(text: object) -> str:
    """Escape text for LaTeX."""
    return "".join(map(_character, plain(text)))


def _character(char: str) -> str:
    if char in _SPECIAL:
        return _SPECIAL[char]
    if char.isascii() or (char.isalpha() and char <= "\N{LATIN SMALL LETTER Y WITH DIAERESIS}"):
        return char
    return f"{{[}}U+{ord(char):04X}{{]}}"
