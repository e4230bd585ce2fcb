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
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written, as JSON.")] = False,
) -> None:
    """Write a report of finished runs: one HTML page without outside requests, and Markdown.

    Examples:

        arvbench report results/runs/demo

        arvbench report results/runs/* --out comparison.html --markdown comparison.md
    """
    from arvbench.reports.build import build_report

    summary = build_report(paths, out, markdown)
    if as_json:
        typer.echo(summary.model_dump_json(indent=2))
        return
    counts = ", ".join(f"{count} {status.value}" for status, count in summary.statuses.items())
    typer.echo(f"{summary.records} cases ({counts})")
    typer.echo(f"report:   {summary.html}\nmarkdown: {summary.markdown}")
    for line in summary.damaged_lines:
        typer.echo(f"skipped a damaged line: {line}", err=True)
