"""Build a report on disk from records files, for `arvbench report` and the end of `arvbench run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.paths import printable
from arvbench.reports.content import count_by_status, make_report
from arvbench.reports.html import to_html
from arvbench.reports.markdown import to_markdown
from arvbench.reports.sections import SECTIONS, Section
from arvbench.reports.summary import CaseSummary, summarise
from arvbench.reports.verdicts import records_of
from arvbench.results.records import RecordsFile, read_records
from arvbench.results.schema import Status

ShownPath = Annotated[Path, PlainSerializer(printable, when_used="json")]
"""Path that `--json` prints; bytes that are not UTF-8 read \\xNN."""


class ReportSummary(BaseModel):
    """Written files, and the records behind them."""

    model_config = ConfigDict(frozen=True)

    html: ShownPath
    markdown: ShownPath
    records: int
    """Number shown: the newest record of each case within a file."""
    statuses: dict[Status, int]
    """Number of cases by status."""
    cases: tuple[CaseSummary, ...]
    """Times of every case, its launches as one."""
    damaged_lines: tuple[str, ...]
    """Skipped lines of the records files, with the reason."""


def build_report(
    paths: Sequence[Path],
    html_path: Path,
    markdown_path: Path | None = None,
    *,
    sections: Sequence[Section] = SECTIONS,
) -> ReportSummary:
    """Write the report of the records in `paths` to one HTML page and to Markdown.

    A path is a records file, a run folder, or the folder of a check, which stands for both of its sides.

    `markdown_path` None puts the Markdown beside the page. Raises UserError when a path is missing, when no path
    holds a record, or when the output cannot be written; each file is written whole or not at all.
    """
    markdown_path = html_path.with_suffix(".md") if markdown_path is None else markdown_path
    files = [read_records(run) for path in paths for run in records_of(path)]
    _check_outputs(html_path, markdown_path, files)
    damaged = tuple(str(line) for file in files for line in file.damaged_lines)
    if not any(file.records for file in files):
        more = f"; {len(damaged)} damaged lines, the first: {damaged[0]}" if damaged else ""
        raise UserError(f"no records in {', '.join(str(file.path) for file in files) or 'no files'}{more}")
    report = make_report(files, sections)
    _write(html_path, to_html(report))
    _write(markdown_path, to_markdown(report))
    return ReportSummary(
        html=html_path,
        markdown=markdown_path,
        records=len(report.records),
        statuses=count_by_status(report.records),
        cases=summarise(report.records),
        damaged_lines=damaged,
    )


def _check_outputs(html_path: Path, markdown_path: Path, files: Sequence[RecordsFile]) -> None:
    """Raise UserError when an output is a records file, or when both outputs are one file."""
    if html_path.resolve() == markdown_path.resolve():
        raise UserError(f"the page and the Markdown cannot both be {html_path}: name them apart")
    inputs = {file.path.resolve() for file in files}
    for path in (html_path, markdown_path):
        if path.resolve() in inputs:
            raise UserError(f"{path} holds records: write the report to another file")


def _write(path: Path, text: str) -> None:
    """Write the file atomically, or raise UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another place with --out") from error
