"""`arvbench report`: write one HTML page and Markdown from the records of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from arvbench.reports.build import ReportSummary


def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Run folders or records.jsonl files, reported together.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where the self-contained HTML page goes; by default report.html beside the records, and in the "
            "working folder for several PATHs.",
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Where the Markdown goes; beside the page if not given."),
    ] = None,
    tables: Annotated[
        list[Path] | None,
        typer.Option(
            "--tables",
            metavar="PATH",
            help="Write all tables, too: Markdown to FILE.md, LaTeX to FILE.tex, and to a folder a CSV file for every "
            "table and figure; FILE.csv and FILE.parquet have a row for every record. May be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written, as JSON.")] = False,
) -> None:
    """Write a report of finished runs: one HTML page without outside requests, and its answer as Markdown and JSON.

    The page holds the data of its figures as CSV.

    Examples:

        arvbench report results/runs/demo

        arvbench report results/runs/* --out comparison.html --tables comparison.tex --tables comparison-csv
    """
    from arvbench.reports.build import build_report, default_page

    summary = build_report(paths, out or default_page(paths), markdown, tables=tables or ())
    if as_json:
        typer.echo(summary.model_dump_json(indent=2))
    else:
        _print(summary)


def _print(summary: ReportSummary) -> None:
    """Print the answer, what was written and what was skipped."""
    from rich.console import Console

    from arvbench.reports.tables.terminal_answer import terminal_answer

    (console := Console()).print(terminal_answer(summary.answer, width=console.width))
    counts = ", ".join(f"{count} {status.value}" for status, count in summary.statuses.items())
    written = [f"report:   {summary.html}", f"markdown: {summary.markdown}", f"data:     {summary.data}"]
    written += [f"tables:   {path}" for path in summary.tables]
    typer.echo("\n".join([f"{summary.records} cases ({counts})", *written]))
    for line in summary.damaged_lines:
        typer.echo(f"skipped a damaged line: {line}", err=True)
