"""Searches in reports: whatever shows a winner says of how many it is the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import records as make
import yaml
from report_text import column, in_terminal
from searches import search_records
from typer.testing import CliRunner

from arvbench import results
from arvbench.harness.cli import main, program
from arvbench.harness.suites.suite import load_suite
from arvbench.reports.build import build_report
from arvbench.reports.content import make_report
from arvbench.reports.reproduction import SUITE_FILE, reproduction_suite
from arvbench.reports.table import Table
from arvbench.results.records import RecordsFile
from arvbench.results.schema import Record

pytestmark = pytest.mark.usefixtures("drawn_once")


@pytest.fixture
def folder(tmp_path) -> Path:
    others = [make.record("demo/nar", number=50, case_id="demo/nar optimized b1 float32 cpu")]
    make.write_records(tmp_path / "run" / "records.jsonl", [*search_records(), *others])
    return tmp_path / "run"


def report_of(*records: Record):
    return make_report([RecordsFile(path=Path("records.jsonl"), records=records, damaged_lines=())])


def test_every_table_of_a_report_that_shows_the_winner_says_best_of_4() -> None:
    report = report_of(*search_records(), make.record("demo/nar", number=50))
    tables = [block for section in report.sections for block in section.blocks if isinstance(block, Table)]
    of_cases = [table for table in tables if table.columns[0].label == "Case"]
    assert len(of_cases) > 8
    for table in of_cases:
        for row in table.rows:
            if "b4" in row[0].text:
                assert "best of 4" in row[0].text, table.caption
            elif "search(" in row[0].text:
                assert "of 4" in row[0].text, table.caption


def test_a_section_has_all_tries_in_order_and_the_best_of_each_search() -> None:
    report = report_of(*search_records())
    (section,) = [section for section in report.sections if section.heading == "Searches"]
    _, bests, tries = section.blocks
    assert [cell.text for cell in column(bests, "Tries")] == ["4"]
    assert [cell.text for cell in column(bests, "Looked for")] == ["most images/s"]
    assert [cell.text for cell in column(bests, "Over")] == ["batch: 1, 2, 4, 8"]
    assert column(bests, "Best")[0].sort > column(bests, "Confirmed")[0].sort
    marks = ["try 1 of 4", "try 2 of 4", "best of 4", "try 4 of 4", "confirms best of 4"]
    assert [cell.text for cell in column(tries, "Which is")] == marks
    assert [cell.text for cell in column(tries, "Point")] == ["batch=1", "batch=8", "batch=4", "batch=2", "batch=4"]
    assert [cell.text for cell in column(tries, "Status")] == ["ok", "oom", "ok", "ok", "ok"]
    assert "out of memory" in column(tries, "Reason")[1].text
    assert "Searches" not in [section.heading for section in report_of(make.record()).sections]


def test_page_and_markdown_say_it(folder, tmp_path) -> None:
    summary = build_report([folder], tmp_path / "r.html")
    page, markdown = summary.html.read_text(), summary.markdown.read_text()
    assert page.count("best of 4") > 8 and "confirms best of 4" in page and "so looks better than it is" in page
    assert "| demo/var (best of 4) |" in markdown


def test_the_answer_as_data_names_the_winner_as_best_of_4(folder, tmp_path) -> None:
    build_report([folder], tmp_path / "r.html")
    fields = json.loads((tmp_path / "r.json").read_text())["fields"]
    named = {name for field in fields for name, record_id in field["models"].items() if record_id.startswith("0003")}
    assert named == {"demo/var (best of 4)"}
    best = {best["model"] for field in fields for best in field["best"] if best["record_id"].startswith("0003")}
    assert best == {"demo/var (best of 4)"}


def test_the_summary_as_data_says_it(folder, tmp_path) -> None:
    ran = CliRunner().invoke(program(), ["report", str(folder), "--out", str(tmp_path / "r.html"), "--json"])
    cases = json.loads(ran.stdout)["cases"]
    said = ["try 1 of 4", "try 2 of 4", "best of 4", "try 4 of 4", "confirms best of 4", None]
    assert [case["search"] for case in cases] == said
    assert all((case["search"] or "") in case["case"] for case in cases)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_says_it_in_both_tables(width) -> None:
    text = in_terminal(*search_records(), make.record("demo/nar", number=50), width=width)
    speed, _, quality = text.partition("Quality")
    assert "best of 4" in speed and "confirms best of 4" in speed
    assert "best of 4" in quality
    assert all(len(line) <= width for line in text.splitlines())


def test_records_ls_and_the_frame_say_it_also_of_a_choice(folder, capsys) -> None:
    assert main(["records", "ls", str(folder), "--status", "oom"]) == 0
    assert capsys.readouterr().out.strip().endswith("try 2 of 4")
    assert main(["records", "ls", str(folder)]) == 0
    assert sum(line.endswith(", best of 4") for line in capsys.readouterr().out.splitlines()) == 1
    frame = results.frame(folder)
    assert list(frame["search"])[2:5] == ["best of 4", "try 4 of 4", "confirms best of 4"] and frame["search"].isna()[5]


def test_pruning_and_merging_make_no_search_shorter(folder, tmp_path, capsys) -> None:
    """A pruned failure still counts; a merged run has the same winner; nothing of it is superseded."""
    assert main(["records", "prune", str(folder), "--superseded"]) == 0
    assert "0 record(s) moved" in capsys.readouterr().out
    assert main(["records", "prune", str(folder), "--status", "oom"]) == 0
    make.write_records(tmp_path / "b" / "records.jsonl", search_records("demo/nar", first=60))
    assert main(["records", "merge", str(folder), str(tmp_path / "b"), "--out", str(tmp_path / "all")]) == 0
    capsys.readouterr()
    assert main(["records", "ls", str(tmp_path / "all")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(", ")[2] for line in lines if "best of" in line] == [
        "best of 4 (3 recorded)",
        "confirms best of 4 (3 recorded)",
        "best of 4",
        "confirms best of 4",
    ]


def test_an_older_search_over_other_values_is_superseded(folder, capsys) -> None:
    longer = [
        record.model_copy(
            update={
                "record_id": f"newer-{record.record_id}",
                "case": record.case.model_copy(
                    update={"search": record.case.search.model_copy(update={"over": {"batch": (1, 2, 4, 8, 16)}})}
                ),
            }
        )
        for record in search_records()[:2]
    ]
    path = folder / "records.jsonl"
    path.write_text(path.read_text() + "".join(record.model_dump_json() + "\n" for record in longer))
    assert main(["records", "prune", str(folder), "--superseded", "--dry-run"]) == 0
    assert sum("search(" in line for line in capsys.readouterr().out.splitlines()) == 5


def test_the_suite_of_a_report_asks_for_each_search_once(tmp_path) -> None:
    text = reproduction_suite([*search_records(), make.record("demo/nar", number=50)])
    first, second = yaml.safe_load(text)["cases"]
    assert first["search"] == {"objective": "images/s", "over": {"batch": [1, 2, 4, 8]}, "budget": 4, "confirm": True}
    assert "batch" not in first and "search" not in second
    (tmp_path / SUITE_FILE).write_text(text)
    loaded = load_suite(str(tmp_path / SUITE_FILE)).cases[0].config
    assert loaded == search_records()[0].case
