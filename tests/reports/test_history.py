"""A history as a section of a report, in a terminal, and in the forms of other tools."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
import records as make
import yaml
from histories import commit, records_of, write

from arvbench.harness.cli import main
from arvbench.harness.history.history import history_of
from arvbench.reports.history_exports import EXPORTS
from arvbench.reports.tables.history import marked_rows
from arvbench.results.history import History

pytestmark = pytest.mark.usefixtures("drawn_once")

STEP = [1.0] * 10 + [1.1] * 10
HOSTILE = "<script>alert(1)</script> | **b**\x00"
BMF = {  # bencher.dev/bmf.json
    "$schema": "http://json-schema.org/draft-07/schema",
    "type": "object",
    "patternProperties": {
        ".+": {
            "type": "object",
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {name: {"type": "number"} for name in ("value", "lower_value", "upper_value")},
                    "required": ["value"],
                }
            },
        }
    },
}
CUSTOM = {  # README of github-action-benchmark: name, unit and value; range and extra are optional
    "type": "array",
    "items": {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("name", "unit", "range", "extra")}
        | {"value": {"type": "number"}},
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("histories")
    faster = records_of([1.1] * 10 + [1.0] * 10, first=500, batch=4)
    return write(folder / "run", [*records_of(STEP, launches=2), *faster])


@pytest.fixture(scope="module")
def history(run) -> History:
    return history_of([run])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_worst_change_points_come_first_and_better_ones_after_them(history):
    tones = [row.tone for row in marked_rows(history)]
    assert tones == sorted(tones, key=lambda tone: tone != "bad") and {*tones} == {"bad", "good"}


def test_the_page_the_terminal_the_markdown_and_the_data_hold_the_history(run, folder, capsys):
    assert main(["report", "--history", str(run), "--out", "page.html", "--tables", "tables.md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "20 commits, 24 series: 12 change points, 6 of them for the worse" in " ".join(lines)
    rows = [line for line in lines if commit(10)[:10] in line]
    assert len(rows) == 12 and all("code" in row for row in rows)
    html, data = Path("page.html").read_text(), json.loads(Path("page.json").read_text())
    assert html.index('<section id="history">') < html.index('<section id="results">')
    assert 'id="figure-history"' in html and commit(10)[:10] in html
    assert commit(10)[:10] in Path("page.md").read_text() and "All" not in Path("page.md").read_text()
    assert "Times: all 12 series" in Path("tables.md").read_text()
    stored = History.model_validate(data["history"])
    assert stored.commits[10] == commit(10) and list(stored.marked())
    # The other sections show the newest commit: two cases, of twenty commits.
    assert len(data["record_ids"]) == 2


def test_a_report_without_the_option_has_no_such_section(run, folder):
    assert main(["report", str(run), "--out", "page.html"]) == 0
    assert '<section id="history">' not in Path("page.html").read_text()
    assert json.loads(Path("page.json").read_text())["history"] is None


def test_text_of_records_stays_text(folder):
    records = records_of(STEP, case_id=HOSTILE, environment=lambda _place: {"cpu": HOSTILE})
    run = write(folder / "run", records)
    everything = [f"--export={name}={folder / name}.txt" for name in EXPORTS]
    assert main(["report", "--history", str(run), *everything, "--tables", "tables.md"]) == 0
    html, tables = (run / "report.html").read_text(), Path("tables.md").read_text()
    assert "<script>alert" not in html + tables + (run / "report.md").read_text() and "alert(1)" in html
    assert "\0" not in Path("otava.yaml").read_text() and yaml.safe_load(Path("otava.yaml").read_text())


def test_github_action_benchmark_gets_the_newest_commit_in_a_file_per_direction(history, tmp_path):
    files = EXPORTS["github-action-benchmark"](history, tmp_path / "g.json")
    smaller, bigger = (json.loads(files[tmp_path / name]) for name in ("g.json", "g.bigger.json"))
    for entries in (smaller, bigger):
        jsonschema.validate(entries, CUSTOM)
        assert len({entry["name"] for entry in entries}) == len(entries)
    assert {entry["name"].rpartition(" / ")[2].partition(" (")[0] for entry in bigger} == {"correct", "equal tokens"}
    images = [entry for entry in smaller if entry["name"].endswith("/ images")]
    points = [number.points[-1].value for number in history.numbers if number.number == "images"]
    assert [entry["value"] for entry in images] == points and images[0]["range"].startswith("± ")
    assert f"commit {commit(19)}" in images[0]["extra"]


def test_bencher_gets_its_metric_format(history, tmp_path):
    (text,) = EXPORTS["bencher"](history, tmp_path / "b.json").values()
    benchmarks = json.loads(text)
    jsonschema.validate(benchmarks, BMF)
    assert len(benchmarks) == 2 and all(len(name) <= 1024 for name in benchmarks)
    assert all(len(measure) <= 64 for measures in benchmarks.values() for measure in measures)
    assert {"images [ns]", "weights_bytes [bytes]"} <= {*next(iter(benchmarks.values()))}


def test_bencher_gets_bounds_from_launches_enough_for_an_interval(tmp_path):
    run = write(tmp_path / "run", records_of([1.0, 1.0], launches=6))
    (text,) = EXPORTS["bencher"](history_of([run]), tmp_path / "b.json").values()
    (measures,) = json.loads(text).values()
    images = measures["images [ns]"]
    assert images["lower_value"] < images["value"] < images["upper_value"]
    assert measures["weights_bytes [bytes]"].keys() == {"value"}


def test_long_names_stay_apart_within_the_limits_of_bencher(tmp_path):
    records = records_of([1.0, 1.0], case_id="a" * 2000) + records_of([1.0, 1.0], first=50, case_id="a" * 2001)
    history = history_of([write(tmp_path / "run", records)])
    (text,) = EXPORTS["bencher"](history, tmp_path / "b.json").values()
    assert [len(name) for name in json.loads(text)] == [1024, 1024]


def test_pytest_benchmark_reads_its_own_form(history, tmp_path, capsys):
    from pytest_benchmark.cli import main as compare

    (text,) = EXPORTS["pytest-benchmark"](history, tmp_path / "p.json").values()
    (tmp_path / "p.json").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("sys.argv", ["pytest-benchmark", "compare", "p.json", "--columns=min,median,iqr,ops,rounds"])
        compare()
    printed = capsys.readouterr().out
    assert "images" in printed and "steps[0:3]" in printed and "weights_bytes" not in printed
    content = json.loads(text)
    assert content["commit_info"]["id"] == commit(19) and not content["commit_info"]["dirty"]
    (stats,) = [b["stats"] for b in content["benchmarks"] if b["name"] == "images" and b["stats"]["rounds"] == 2]
    values = next(number.points[-1].values for number in history.numbers if number.number == "images")
    assert stats["data"] == [value / 1e9 for value in values] and stats["median"] == pytest.approx(sum(values) / 2e9)


def test_the_statistics_are_those_of_pytest_benchmark(history, tmp_path):
    from pytest_benchmark.stats import Stats

    run = write(tmp_path / "run", records_of([1.0, 1.0], launches=9))
    (text,) = EXPORTS["pytest-benchmark"](history_of([run]), tmp_path / "p.json").values()
    for benchmark in json.loads(text)["benchmarks"]:
        theirs = Stats()
        for value in benchmark["stats"]["data"]:
            theirs.update(value)
        for field in ("min", "max", "mean", "stddev", "rounds", "median", "ops", "total", "stddev_outliers"):
            assert benchmark["stats"][field] == pytest.approx(getattr(theirs, field)), field
        assert benchmark["stats"].keys() == {*Stats.fields, "data", "iterations"}


def test_otava_gets_a_row_for_each_commit_and_its_settings(history, tmp_path):
    files = EXPORTS["otava"](history, tmp_path / "o.csv")
    tests = yaml.safe_load(files[tmp_path / "o.yaml"])["tests"]
    assert len(tests) == 2 and len(files) == 3
    for test in tests.values():
        assert test["type"] == "csv" and test["time_column"] == "time" and test["attributes"] == ["commit"]
        heading, *rows = csv.reader(io.StringIO(files[Path(test["file"])]))
        assert heading[:2] == ["time", "commit"] and {*test["metrics"]} == {*heading[2:]}
        assert [row[1] for row in rows] == list(history.commits)
        moments = [datetime.fromisoformat(row[0]) for row in rows]
        assert all(a < b for a, b in pairwise(moments))
        assert all(float(cell) > 0 for row in rows for cell in row[2:])
        assert test["metrics"]["images"]["direction"] == -1 and test["metrics"]["correct"]["direction"] == 1


def test_series_of_unequal_commits_are_files_of_their_own(tmp_path):
    records = records_of([1.0] * 4)
    memory = records[1].outcome.memory.model_copy(update={"weights_bytes": 0})
    records[1] = records[1].model_copy(update={"outcome": records[1].outcome.model_copy(update={"memory": memory})})
    files = EXPORTS["otava"](history_of([write(tmp_path / "run", records)]), tmp_path / "o.csv")
    assert sorted(path.name for path in files) == ["o-1.csv", "o-2.csv", "o.yaml"]
    assert len(files[tmp_path / "o-2.csv"].splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--export", "otava=o.csv"], "--export is for --history"),
        (["--baseline", "b.json"], "--baseline is for --history"),
        (["--repository", "."], "--repository is for --history"),
        (["--history", "--export", "otava"], "write FORMAT=FILE; formats: github-action-benchmark, bencher"),
        (["--history", "--export", "otawa=o.csv"], "no export 'otawa'; did you mean 'otava'"),
        (
            ["--history", "--export", "bencher=a.json", "--export", "pytest-benchmark=a.json"],
            "two exports cannot both be",
        ),
        (["--history", "--export", "bencher=run/report.json"], "read or written otherwise"),
        (["--history", "--export", "bencher=run/records.jsonl"], "read or written otherwise"),
        (["--history", "--baseline", "none.json"], "none.json"),
        (["--history", "--repository", "nowhere"], "nowhere is not in a git checkout"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, capsys, arguments, reason):
    write(folder / "run", records_of([1.0] * 3))
    before = (folder / "run" / "records.jsonl").read_bytes()
    assert main(["report", "run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and reason in error and error.count("\n") == 1
    assert (folder / "run" / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("records", [[make.record()], []], ids=["one commit", "no records"])
def test_a_history_of_one_commit_is_refused(folder, capsys, records):
    write(folder / "run", records)
    assert main(["report", "--history", "run"]) == 2
    error = capsys.readouterr().err
    assert "a history needs two or more" in error and error.count("\n") == 1 and not Path("run/report.html").exists()
