"""One run of made-up records for all tests of reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import records as make

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
