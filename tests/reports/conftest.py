"""One run of made-up records for all tests of reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import pytest
import records as make

from arvbench.reports import drawn_apart
from arvbench.reports.svg import Draw, DrawnFigure
from arvbench.results.records import read_records
from arvbench.results.schema import Record


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with `many_records`, its pictures and a cut last line. Do not write into it."""
    folder = tmp_path_factory.mktemp("run")
    path = make.write_records(folder / "records.jsonl", make.many_records(folder))
    path.write_text(path.read_text() + '{"schema_version": 1, "record_id": "00')
    return folder


@pytest.fixture(scope="session")
def records(run_folder: Path) -> list[Record]:
    return list(read_records(run_folder).records)


_DRAWN: dict[tuple[str, Draw, tuple[str, ...]], DrawnFigure | None] = {}
"""Name, function and records -> the figure."""


@pytest.fixture(scope="module")
def drawn_once() -> Iterator[None]:
    """Draw the figures of equal records once for all reports of the modules that ask for it."""
    real = drawn_apart.drawn_figures

    def drawn(draws: Mapping[str, Draw], records: Sequence[Record]) -> list[tuple[str, DrawnFigure | None]]:
        of_records = tuple(record.model_dump_json() for record in records)
        new = {name: draw for name, draw in draws.items() if (name, draw, of_records) not in _DRAWN}
        _DRAWN.update({(name, new[name], of_records): figure for name, figure in real(new, records)})
        return [(name, _DRAWN[name, draw, of_records]) for name, draw in draws.items()]

    with mock.patch.object(drawn_apart, "drawn_figures", drawn):
        yield
