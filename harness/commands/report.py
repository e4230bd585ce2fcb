"""`arvbench report`: write one HTML page and Markdown from the records of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.errors import UserError

if TYPE_CHECKING:
    from arvbench.reports.build import ReportSummary
    from arvbench.results.history import History


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
    history: Annotated[
        bool, typer.Option("--history", help="Records are of many commits: find where numbers changed.")
    ] = False,
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository", metavar="DIR", help="Checkout that orders the commits.  [default: the working folder's]"
        ),
    ] = None,
    baseline: Annotated[
        list[Path] | None,
        typer.Option("--baseline", metavar="FILE", help="Stored baseline, whose anchors become lines; repeatable."),
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(
            "--export",
            metavar="FORMAT=FILE",
            help="Also write the history for github-action-benchmark, bencher, pytest-benchmark or otava; repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written, as JSON.")] = False,
) -> None:
    """Write a report of finished runs: one HTML page without outside requests, and its answer as Markdown and JSON.

    The page holds the data of its figures as CSV. With --history, it begins with change points over commits.

    Examples:

        arvbench report results/runs/demo

        arvbench report results/runs/* --out comparison.html --tables comparison.tex --tables comparison-csv

        arvbench report --history nightly/* --export otava=numbers.csv --export bencher=bmf.json
    """
    from arvbench.reports.build import build_report, default_page
    from arvbench.reports.history_exports.write import write_exports

    wanted = HistoryOptions(history, repository, tuple(baseline or ()), tuple(export or ()))
    page, found = out or default_page(paths), wanted.read(paths)
    exports = wanted.exported(found, [*paths, *(path for path in (page, markdown, *(tables or ())) if path)])
    summary = build_report(paths, page, markdown, tables=tables or (), history=found)
    write_exports(exports)
    if as_json:
        typer.echo(summary.model_dump_json(indent=2))
    else:
        _print(summary, found, list(exports))


@dataclass(frozen=True, slots=True)
class HistoryOptions:
    """Options of a history."""

    asked: bool
    repository: Path | None
    baselines: tuple[Path, ...]
    exports: tuple[str, ...]

    def read(self, paths: Sequence[Path]) -> History | None:
        """Return the history; None where none is asked for. Raises UserError for options that need one."""
        from arvbench.reports.history_exports.write import parse_exports

        parse_exports(self.exports)
        if not self.asked:
            for name, given in (
                ("repository", self.repository),
                ("baseline", self.baselines),
                ("export", self.exports),
            ):
                if given:
                    raise UserError(f"--{name} is for --history")
            return None
        from arvbench.harness.history.history import history_of

        return history_of(paths, repository=self.repository, baselines=self.baselines)

    def exported(self, history: History | None, others: Sequence[Path]) -> dict[Path, str]:
        """Return the texts of the exports by file; none of them may be one of `others`, or what belongs to these."""
        from arvbench.reports.history_exports.write import make_exports, parse_exports
        from arvbench.results.records import RECORDS_NAME

        beside = [path.with_suffix(suffix) for path in others for suffix in (".md", ".json") if path.name]
        keep = [*others, *(path / RECORDS_NAME for path in others), *beside]
        return {} if history is None else make_exports(history, parse_exports(self.exports), keep)


def _print(summary: ReportSummary, history: History | None, exported: Sequence[Path]) -> None:
    """Print the answer or the history, what was written and what was skipped."""
    from rich.console import Console

    from arvbench.paths import printable
    from arvbench.reports.tables.terminal_answer import terminal_answer
    from arvbench.reports.tables.terminal_history import terminal_history

    console = Console()
    if history is not None:
        console.print(terminal_history(history, width=console.width))
    else:
        console.print(terminal_answer(summary.answer, width=console.width))
    counts = ", ".join(f"{count} {status.value}" for status, count in summary.statuses.items())
    written = [f"report:   {summary.html}", f"markdown: {summary.markdown}", f"data:     {summary.data}"]
    written += [f"tables:   {path}" for path in summary.tables]
    written += [f"export:   {printable(path)}" for path in exported]
    typer.echo("\n".join([f"{summary.records} cases ({counts})", *written]))
    for line in summary.damaged_lines:
        typer.echo(f"skipped a damaged line: {line}", err=True)
