"""Tables of a report as files, in the form that the ending of a path asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from arvbench.errors import UserError
from arvbench.files import replacing, write_whole
from arvbench.reports.blocks import FilledSection, FoldedTables
from arvbench.reports.content import Report
from arvbench.reports.data import Data, joined_data, table_data, to_csv
from arvbench.reports.html import anchor
from arvbench.reports.latex import to_latex
from arvbench.reports.markdown import to_tables
from arvbench.reports.svg import InlineFigure
from arvbench.reports.table import Table
from arvbench.results.frames import frame_of, write_parquet
from arvbench.results.launches import launches_of
from arvbench.results.schema import Record


def _launches(report: Report) -> Iterator[Record]:
    return (launch for record in report.records for launch in launches_of(record))


def _write_frame(report: Report, path: Path) -> None:
    with replacing(path) as part:
        frame_of(_launches(report)).to_csv(part, index=False)


WRITERS: Final[dict[str, Callable[[Report, Path], None]]] = {
    ".md": lambda report, path: write_whole(path, to_tables(report)),
    ".tex": lambda report, path: write_whole(path, to_latex(report)),
    ".csv": _write_frame,
    ".parquet": lambda report, path: write_parquet(_launches(report), path),
    "": lambda report, path: _write_folder(report, path),
}
"""Ending of a path -> its writer; without one it is a folder."""


def writer_of(path: Path) -> Callable[[Report, Path], None]:
    """Return the writer for a path. Raises UserError for an ending that has none."""
    ending = "" if path.is_dir() else path.suffix.lower()
    if ending not in WRITERS:
        known = ", ".join(filter(None, WRITERS))
        raise UserError(f"--tables {path}: cannot write {ending} files; endings: {known}, or none for a folder of CSV")
    return WRITERS[ending]


def _write_folder(report: Report, folder: Path) -> None:
    """Write a CSV file for every table and every figure; tables that are folded together share one."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in report.sections:
        for name, data in section_data(section):
            write_whole(folder / f"{name}.csv", to_csv(data))


def section_data(section: FilledSection) -> Iterator[tuple[str, Data]]:
    """Yield the data of a section's figures and tables, each with a name; tables of a section are numbered."""
    number = 0
    for block in section.blocks:
        if isinstance(block, InlineFigure):
            yield f"figure-{block.name}", block.data
        elif isinstance(block, Table | FoldedTables):
            number += 1
            data = table_data(block) if isinstance(block, Table) else joined_data(block.tables)
            yield f"{anchor(section.heading)}-{number}", data
