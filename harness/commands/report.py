"""`arvbench report`: write one HTML page and Markdown from the records of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Run folders or records.jsonl files, reported together.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where the self-contained HTML page goes.")
    ] = Path("report.html"),
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Where the Markdown goes; beside the page if not given."),
    ] = None,
    tables: Annotated[
        Path | None, typer.Option("--tables", metavar="FILE", help="Write all tables as Markdown to FILE, too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written, as JSON.")] = False,
) -> None:
    """Write a report of finished runs: one HTML page without outside requests, and its answer as Markdown and JSON.

    Examples:

        arvbench report results/runs/demo

        arvbench report results/runs/* --out comparison.html --markdown comparison.md
    """
    from rich.console import Console

    from arvbench.reports.build import build_report
    from arvbench.reports.tables.terminal_answer import terminal_answer

    summary = build_report(paths, out, markdown, tables_path=tables)
    if as_json:
        typer.echo(summary.model_dump_json(indent=2))
        return
    (console := Console()).print(terminal_answer(summary.answer, width=console.width))
    counts = ", ".join(f"{count} {status.value}" for status, count in summary.statuses.items())
    written = f"report:   {summary.html}\nmarkdown: {summary.markdown}\ndata:     {summary.data}"
    typer.echo(f"{summary.records} cases ({counts})\n{written}")
    for line in summary.damaged_lines:
        typer.echo(f"skipped a damaged line: {line}", err=True)
