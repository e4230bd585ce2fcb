"""Build a report on disk from records files, for `arvbench report` and the end of `arvbench run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PlainSerializer

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.paths import printable
from arvbench.reports.answer.answer import Answer
from arvbench.reports.answer.data import ReportData, report_data
from arvbench.reports.content import Report, count_by_status, make_report
from arvbench.reports.exports import writer_of
from arvbench.reports.html import WrittenTables, to_html
from arvbench.reports.markdown import to_markdown
from arvbench.reports.remembered import forgotten_after
from arvbench.reports.sections import SECTIONS, Section
from arvbench.reports.summary import CaseSummary, summarise
from arvbench.reports.verdicts import records_of
from arvbench.results.history import History
from arvbench.results.records import RecordsFile, read_records, uncollected
from arvbench.results.schema import Environment, Status

PAGE = "report.html"
ShownPath = Annotated[Path, PlainSerializer(printable, when_used="json")]
"""Path that `--json` prints; bytes that are not UTF-8 read \\xNN."""


class ReportSummary(BaseModel):
    """Written files, and the records behind them."""

    model_config = ConfigDict(frozen=True)

    html: ShownPath
    markdown: ShownPath
    data: ShownPath
    """Best, fronts and findings by record id, as JSON."""
    tables: tuple[ShownPath, ...] = ()
    """Files and folders that `--tables` named."""
    answer: InstanceOf[Answer] = Field(exclude=True, repr=False)
    records: int
    """Number shown: the newest record of each case within a file."""
    statuses: dict[Status, int]
    """Number of cases by status."""
    cases: tuple[CaseSummary, ...]
    """Times of every case, its launches as one."""
    damaged_lines: tuple[str, ...]
    """Skipped lines of the records files, with the reason."""


def default_page(paths: Sequence[Path]) -> Path:
    """Return where the page of these paths goes by default: beside the records of a single one, else here."""
    if len(paths) != 1:
        return Path(PAGE)
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / PAGE


@uncollected()
@forgotten_after()
def build_report(
    paths: Sequence[Path],
    html_path: Path,
    markdown_path: Path | None = None,
    *,
    tables: Sequence[Path] = (),
    sections: Sequence[Section] = SECTIONS,
    history: History | None = None,
) -> ReportSummary:
    """Write the report of the records in `paths` to one HTML page, its answer to Markdown and JSON beside the page.

    A path is a records file, a run folder, or the folder of a check, which stands for both of its sides.

    With a `history` the other sections show the records of its newest commit.

    `markdown_path` None puts the Markdown beside the page; `tables` are paths for all tables, whose endings say the
    form (`exports.WRITERS`). Raises UserError when a path is missing, when no path holds a record, or when an output
    cannot be written, HostError for Parquet without its library; each file is written whole or not at all.
    """
    markdown_path = html_path.with_suffix(".md") if markdown_path is None else markdown_path
    files = [read_records(run) for path in paths for run in records_of(path)]
    data_path = html_path.with_suffix(".json")
    _check_outputs([html_path, markdown_path, data_path, *tables], files)
    exports = [(path, writer_of(path)) for path in tables]
    damaged = _damaged_lines(files)
    tables_in_html, data, cases = WrittenTables(), list[ReportData](), list[CaseSummary]()

    def write_all_but_figures(report: Report) -> None:
        tables_in_html.write(report)
        data.append(report_data(report.answer, report.title, [each.record_id for each in report.records], history))
        cases.extend(summarise(report.records))

    shown = files if history is None else _newest(files, history)
    report = make_report(shown, sections, history, meanwhile=write_all_but_figures)
    _write(html_path, lambda path: write_whole(path, to_html(report, tables_in_html)))
    _write(markdown_path, lambda path: write_whole(path, to_markdown(report)))
    _write(data_path, lambda path: write_whole(path, data[0].model_dump_json(indent=1) + "\n"))
    for path, write in exports:
        _write(path, partial(write, report))
    return ReportSummary(
        html=html_path,
        markdown=markdown_path,
        data=data_path,
        tables=tuple(tables),
        answer=report.answer,
        records=len(report.records),
        statuses=count_by_status(report.records),
        cases=tuple(cases),
        damaged_lines=damaged,
    )


def _damaged_lines(files: Sequence[RecordsFile]) -> tuple[str, ...]:
    """Return the skipped lines of all files; UserError where no file has a record."""
    damaged = tuple(str(line) for file in files for line in file.damaged_lines)
    if not any(file.records for file in files):
        more = f"; {len(damaged)} damaged lines, the first: {damaged[0]}" if damaged else ""
        raise UserError(f"no records in {', '.join(str(file.path) for file in files) or 'no files'}{more}")
    return damaged


def _newest(files: Sequence[RecordsFile], history: History) -> list[RecordsFile]:
    """Return the files with the records of the newest commit alone."""
    newest = history.commits[-1]
    return [
        replace(file, records=tuple(record for record in file.records if _is_of(record.environment, newest)))
        for file in files
    ]


def _is_of(environment: Environment, commit: str) -> bool:
    return environment.git_commit == commit and environment.git_dirty is False


def _check_outputs(outputs: Sequence[Path], files: Sequence[RecordsFile]) -> None:
    """Raise UserError when an output is a records file, or when two outputs are one file."""
    inputs = {file.path.resolve() for file in files}
    for place, path in enumerate(outputs):
        if path.resolve() in {other.resolve() for other in outputs[:place]}:
            raise UserError(f"two outputs cannot both be {path}: name them apart")
        if path.resolve() in inputs:
            raise UserError(f"{path} holds records: write the report to another file")


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Make the folder of `path` and call `write` with it; UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another place with --out") from error
