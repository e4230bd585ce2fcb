"""Reports of many records: what a page shows of them, and what is computed once for all of its parts."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import records as make
import yaml

import arvbench
from arvbench.errors import UserError
from arvbench.reports import build
from arvbench.reports.build import build_report
from arvbench.reports.content import MOST_SHEETS
from arvbench.reports.html import SHOWN_ROWS
from arvbench.reports.names import short_names
from arvbench.reports.remembered import forgotten_after, remembered
from arvbench.reports.reproduction import reproduction_suite
from arvbench.results.records import RecordsFile, read_records
from arvbench.results.schema import Record


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of 130 cases, all with the same sample sheet."""
    folder = tmp_path_factory.mktemp("many")
    sheet = make.sample_sheet(folder)
    records = [
        each.model_copy(update={"outcome": each.outcome.model_copy(update={"sample_sheet": sheet})})
        for each in make.sweep(130)
    ]
    make.write_records(folder / "records.jsonl", records)
    build_report([folder], folder / "r.html")
    return (folder / "r.html").read_text()


def test_rows_beyond_the_first_wait_for_a_reader_and_need_no_script(page: str) -> None:
    rows = re.findall(r'<tr id="case-[^"]+"( hidden)?>', page)
    assert rows == [""] * SHOWN_ROWS + [" hidden"] * (130 - SHOWN_ROWS)
    assert f'<table data-most="{SHOWN_ROWS}">' in page and "Show all 130 rows</button>" in page
    assert "<noscript><style>tr[hidden] { display: table-row; }" in page


def test_of_many_sheets_and_configurations_the_first_are_shown_and_the_others_counted(page: str) -> None:
    assert page.count('alt="Generated images of ') == MOST_SHEETS
    assert f"the first {MOST_SHEETS} of 130 sheets; all lie beside the records" in page
    assert page.count("<pre") == 2 + 100 and "The complete configuration of the first 100 of 130 cases:" in page


def test_the_suite_of_a_page_has_every_case() -> None:
    assert len(yaml.safe_load(reproduction_suite(make.sweep(130)))["cases"]) == 130


def test_a_function_is_asked_once_for_the_very_same_records() -> None:
    asked = []

    @remembered
    def count(records):
        asked.append(len(records))
        return [len(records)]

    first, equal = make.sweep(3), make.sweep(3)
    assert first == equal and count(first) is count(list(first)) and asked == [3]
    assert count(equal) == [3] and count(equal[:2]) == [2] and asked == [3, 3, 2]
    assert count(first) == [3] and asked == [3, 3, 2]
    for number in range(4):
        count(make.sweep(4 + number))
    assert count(first) == [3] and asked == [3, 3, 2, 4, 5, 6, 7, 3]
    with forgotten_after():
        names = short_names(first)
        assert short_names(list(first)) is names and short_names(first[:1]) != names
    assert short_names(first) is not names and short_names(first) == names


def test_a_report_keeps_no_record_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.write_records(tmp_path / "records.jsonl", make.sweep(2))
    read = list[weakref.ref[Record]]()

    def reading(path: Path) -> RecordsFile:
        file = read_records(path)
        read.extend(map(weakref.ref, file))
        return file

    monkeypatch.setattr(build, "read_records", reading)
    build.build_report([tmp_path], tmp_path / "r.html")
    gc.collect()
    assert len(read) == 2 and [record() for record in read] == [None, None]


APART = """
import os, sys
from pathlib import Path
from arvbench.reports import drawn_apart
from arvbench.reports.build import build_report

os.sched_getaffinity = lambda _: {0, 1}
main, draw, drawn_by = os.getpid(), drawn_apart.drawn_figures, Path("drawn_by")

def drawn_figures(*asked):
    for number, figure in enumerate(draw(*asked)):
        if mode == f"dies {number}" and os.getpid() != main:
            os._exit(3)
        yield figure
    with drawn_by.open("a") as file:
        file.write(f"{mode} {'here' if os.getpid() == main else 'apart'}\\n")

drawn_apart.drawn_figures = drawn_figures
for mode, least in (("few", 100), ("many", 1), ("dies 0", 1), ("dies 3", 1)):
    drawn_apart.FROM_RECORDS = least
    build_report([Path("records.jsonl")], Path(f"{mode}.html"))
assert "torch" not in sys.modules
"""


def test_figures_drawn_by_another_process_are_the_same_and_drawn_here_where_it_dies(tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", make.sweep(1))
    # Not beside torch, which the programs of other tests have: there is no second process then.
    source = str(Path(arvbench.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", APART],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": source},
    )
    assert done.returncode == 0, done.stderr
    assert set((tmp_path / "drawn_by").read_text().splitlines()) == {
        "few here",
        "many apart",
        "dies 0 here",
        "dies 3 here",
    }
    pages = {(tmp_path / f"{mode}.html").read_bytes() for mode in ("few", "many", "dies 0", "dies 3")}
    assert len(pages) == 1


def test_the_collector_of_cycles_is_as_it_was(tmp_path: Path) -> None:
    make.write_records(tmp_path / "records.jsonl", [make.incorrect()])
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            build_report([tmp_path], tmp_path / "r.html")
            with pytest.raises(UserError):
                build_report([tmp_path / "none"], tmp_path / "r.html")
            assert gc.isenabled() == enabled
        finally:
            gc.enable()
