"""Launches in reports: one row, with their number and the kind of interval; reports of single launches as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import records as make
from report_text import column, in_terminal
from typer.testing import CliRunner

from arvbench.harness.cli import program
from arvbench.reports.blocks import Passage
from arvbench.reports.build import build_report
from arvbench.reports.content import Report, make_report
from arvbench.reports.figures import quality_throughput, step_latency
from arvbench.reports.numbers import interval_kind, percent
from arvbench.reports.sections import SECTIONS
from arvbench.reports.svg import draw_figure
from arvbench.reports.table import Table
from arvbench.reports.tables.measures import scopes_table, step_tables
from arvbench.reports.tables.results import results_table
from arvbench.results.launches import merge_launches
from arvbench.results.records import RecordsFile
from arvbench.results.schema import Record, Status, WarmUp
from arvbench.results.statistics import find_timing, images_per_second, median_interval

pytestmark = pytest.mark.usefixtures("drawn_once")


def launches(model: str = "demo/var", *, count: int = 8, first: int = 0, **options: Any) -> list[Record]:
    """Launches of one case, each a little slower than the one before; the first has quality."""
    batch = options.setdefault("batch", 1)
    quality = make.quality_numbers(np.random.default_rng(0))
    return [
        make.record(model, number=first + place, launch=place + 1, launches=count, weights="demo",
                    case_id=f"{model} optimized b{batch} float32 cpu", speed=1 + place / 100,
                    quality=() if place else quality, **options)
        for place in range(count)
    ]  # fmt: skip


def mixed() -> list[Record]:
    """Eight launches of one case, three of another, one of a third, in rounds."""
    cases = [launches(), launches(batch=50, count=3, first=20), launches("demo/nar", count=1, first=40)]
    return sorted((record for case in cases for record in case), key=lambda record: record.launch)


def report_of(*records: Record) -> Report:
    return make_report([RecordsFile(path=Path("records.jsonl"), records=records, damaged_lines=())])


def words(report: Report) -> str:
    """Everything but the complete configurations."""
    blocks = [block for section in report.sections for block in section.blocks]
    return repr([block for block in blocks if not isinstance(block, Passage)])


def test_the_launches_of_a_case_are_one_row_with_their_number_and_kind_of_interval() -> None:
    records = mixed()
    table = results_table(merge_launches(records))
    assert [cell.text for cell in column(table, "Launches")] == ["8", "3", "1"]
    kinds = [(cell.text, cell.detail) for cell in column(table, "Interval of the median")]
    assert kinds == [
        ("over launches", "level: 99.21 %"),
        ("none", "range: 75 %"),
        ("within one process", "level: 98.43 %"),
    ]
    first = [record for record in records if record.case_id == records[0].case_id]
    speeds = [images_per_second(find_timing(record.outcome, "images")).value for record in first]
    speed, three, _ = column(table, "Throughput")
    assert speed.sort == pytest.approx(1 / np.median([1 / value for value in speeds]))
    assert three.detail == "3 launches"


def test_every_table_of_a_report_has_a_case_once(tmp_path: Path) -> None:
    report = report_of(*mixed())
    tables = [block for section in report.sections for block in section.blocks if isinstance(block, Table)]
    for table in (table for table in tables if table.columns[0].label == "Case"):
        rows = [(row[0].text, row[1].text) for row in table.rows]
        assert len(rows) == len(set(rows)), table.caption
    assert len(report.records) == 3 and dict(report.facts)["Cases"] == "3: 3 ok (in 12 launches)"
    assert not any("older record" in notice for notice in report.notices)


def test_scopes_and_steps_are_of_the_launches_medians() -> None:
    records = launches(count=6)
    (merged,) = merge_launches(records)
    scopes = scopes_table([merged])
    assert [cell.text for cell in column(scopes, "Samples")] == [str(6 * 7)] * 3
    assert all(float(cell.text) < float(other.text) for cell, other in zip(
        column(scopes, "CV within a launch"), column(scopes, "CV between launches"), strict=True))  # fmt: skip
    medians = [median_interval(find_timing(record.outcome, "step[9]").samples_ns).value for record in records]
    (steps,) = step_tables([merged])
    cell = column(steps, "Time")[9]
    assert cell.sort == pytest.approx(np.median(medians) / 1e6)
    assert cell.detail == f"{min(medians) / 1e6:.2f} – {max(medians) / 1e6:.2f}"  # noqa: RUF001


def test_reports_of_single_launches_say_nothing_of_launches() -> None:
    records = [make.record(number=0), make.record(number=1, batch=4)]
    report = report_of(*records)
    assert "aunches" not in words(report) and "CV" not in words(report)
    assert "aunches" not in in_terminal(*records) and "interval" not in in_terminal(*records)


def test_terms_and_captions_say_what_an_interval_holds() -> None:
    report = report_of(*launches())
    assert "over launches, or within one process, as the row says" in words(report)
    assert "the differences between processes" in words(report) and "All samples of a case are calls" not in words(
        report
    )
    merged = merge_launches(launches())
    for module in (step_latency, quality_throughput):
        drawing = draw_figure("f", module.draw, merged)
        assert drawing is not None and "over launches" in drawing.caption


def test_a_step_is_drawn_once_with_the_interval_over_launches() -> None:
    drawing = draw_figure("f", step_latency.draw, merge_launches(launches()))
    assert drawing is not None
    (axes,) = drawing.figure.axes
    assert len(axes.lines) == 1
    (band,) = axes.collections
    medians = [median_interval(find_timing(r.outcome, "step[0]").samples_ns).value / 1e6 for r in launches()]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(min(medians)) and medians[-1] == max(medians)


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_has_a_line_per_case_that_does_not_wrap(width: int) -> None:
    lines = in_terminal(*mixed(), width=width).splitlines()
    assert max(map(len, lines)) <= width
    rule = next(place for place, line in enumerate(lines) if line.startswith("──"))
    rows = lines[rule + 1 : rule + 4]
    assert [row.split()[0] for row in rows] == ["demo/var", "demo/var", "demo/nar"] and lines[rule + 4].strip() == ""
    assert "interval" in lines[rule - 1]
    text = "\n".join(lines)
    assert "interval: over 8 launches, 99.21 %" in text
    assert "interval: none for 3 launches: their range would cover the median with 75 %" in text
    assert "interval: over 7 calls within one process, 98.43 %" in text


def test_launches_that_all_cases_share_stand_in_the_title_of_the_terminal() -> None:
    cases = [*launches(), *launches(batch=50, first=20)]
    title, head, *rest = in_terminal(*cases, width=80).splitlines()
    assert "8 launches" in title and "interval" in head
    first = next(line for line in rest if line.split()[:2] == ["1", "ok"])
    assert "15.1 – 16.1" in first or "–" in first  # noqa: RUF001
    assert "left to the report" not in "\n".join(rest)


def test_launches_without_numbers_have_rows_that_say_which_they_are() -> None:
    records = launches(count=4)
    case = {"case_id": records[0].case_id, "batch": 1, "weights": "demo", "launches": 6}
    lost = [make.failed(Status.TIMEOUT, "too slow", number=n, launch=n, **case) for n in (5, 6)]
    table = results_table(merge_launches([*records, *lost]))
    assert [(cell.text, cell.sort) for cell in column(table, "Launches")] == [("4", 4.0), ("2", 2.0)]
    names = [row[0].text for row in table.rows]
    assert names == ["demo/var · 4 launches", "demo/var · 2 launches"]
    single = results_table(merge_launches([*records, lost[0]]))
    assert single.rows[1][0].text.endswith("· launch 5")


def test_an_unsteady_launch_marks_its_case_and_is_counted() -> None:
    records = launches(count=4)
    unsteady = WarmUp(samples_ns=(9, 5, 7), steady=False)
    outcome = records[2].outcome.model_copy(update={"warmup": unsteady})
    records[2] = records[2].model_copy(update={"outcome": outcome})
    (merged,) = merge_launches(records)
    assert column(results_table([merged]), "Throughput")[0].flags == ("unsteady warm-up",)
    (notice,) = [notice for notice in report_of(*records).notices if "unsteady" in notice]
    assert notice.startswith("1 case had unsteady times") and "in 1 of 4 launches" in notice
    assert "80 %" in notice


def test_readings_of_the_gpu_are_those_of_all_launches() -> None:
    hot = make.GPU.model_copy(update={"sm_clock_mhz": 1200, "throttle_reasons": ("thermal",)})
    records = [make.record(number=n, launch=n, gpu=gpu, launches=2) for n, gpu in ((1, make.GPU), (2, hot))]
    report = report_of(*records)
    assert "1200 to 1980 MHz" in words(report)
    assert any("throttling in 1 case" in notice for notice in report.notices)


def test_two_runs_stay_two_rows_and_older_launches_are_counted() -> None:
    one, two = launches(count=3), launches(count=3, first=10)
    files = [RecordsFile(path=Path(name), records=tuple(records), damaged_lines=()) for name, records in
             (("a", one), ("b", two))]  # fmt: skip
    assert len(make_report(files).records) == 2
    newer = [make.record("demo/var", number=99, weights="demo", launches=3, batch=1, case_id=one[0].case_id,
                         environment=make.environment(source_sha256="6" * 64))]  # fmt: skip
    report = report_of(*one, *newer)
    assert len(report.records) == 1
    assert report.notices[0].startswith("3 older records of the same cases are in the files")


def test_the_suite_that_makes_a_report_again_asks_for_the_launches() -> None:
    assert "{model: demo/var, weights: demo, launches: 8}" in words(report_of(*launches()))


def test_json_has_an_entry_per_case_with_kind_level_and_variation(tmp_path: Path) -> None:
    path = make.write_records(tmp_path / "records.jsonl", mixed())
    out = str(tmp_path / "r.html")
    result = CliRunner().invoke(program(), ["report", str(path), "--out", out, "--json"])
    content = json.loads(result.stdout)
    eight, three, one = content["cases"]
    assert [case["launches"] for case in (eight, three, one)] == [8, 3, 1] and content["records"] == 3
    assert len(eight["record_ids"]) == 8 and [time["scope"] for time in one["times"]] == ["images", "tokens", "decode"]
    images = eight["times"][0]
    low, high = images["interval_ms"]
    assert low < images["median_ms"] < high and images["level"] == 1 - 2**-7
    assert (images["interval_over"], images["samples"]) == ("launches", 8) and images["cv_between"] > 0.01
    assert three["times"][0]["interval_ms"] is three["times"][0]["level"] is None
    alone = one["times"][0]
    assert (alone["interval_over"], alone["samples"]) == ("calls within one process", 7) and alone["cv_between"] is None
    failed = build_report([make.write_records(tmp_path / "f.jsonl", [make.incorrect()])], tmp_path / "f.html")
    assert failed.cases[0].times == ()


def test_a_level_is_never_rounded_up() -> None:
    assert [percent(share) for share in (0.75, 0.96875, 0.99999, 0.5)] == ["75 %", "96.87 %", "99.99 %", "50 %"]
    few = median_interval([1.0, 2.0, 3.0])
    assert interval_kind(few) == "none for 3 calls within one process: their range would cover their median with 75 %"


def test_every_section_is_made_of_launches_too(tmp_path: Path) -> None:
    path = make.write_records(tmp_path / "records.jsonl", mixed())
    summary = build_report([path], tmp_path / "r.html", tables=[tmp_path / "tables.md"])
    assert summary.records == 3
    text = (tmp_path / "tables.md").read_text()
    assert all(f"## {section.heading}" in text for section in SECTIONS if section.heading in ("Results", "Latency"))
    assert "MergedRecord" not in text
