"""Runs of a search: which points are tried, with what is a failure, and after a kill."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from run_helpers import write_suite
from search_runs import BY_BATCH, DIGITS, ONE, CurveEngine, batches, best_at_24, run

from arvbench.harness.cli import main
from arvbench.harness.commands.progress import ProgressBar
from arvbench.harness.jobs import Part, Shard
from arvbench.harness.run.plan import plan
from arvbench.harness.suites.suite import check_cases, load_suite
from arvbench.results.launches import merge_launches
from arvbench.results.search import searches


def test_a_search_tries_as_many_points_as_its_budget_and_finds_the_best(tmp_path):
    records = run(tmp_path, CurveEngine(best_at_24), ONE | {"search": BY_BATCH})
    assert batches(records)[:3] == [1, 64, 25] and len(set(batches(records))) == 7
    (search,) = searches(records)
    assert search.best.case.batch in (23, 24, 25) and search.count == 7
    assert [record.case.search.number for record in records] == list(range(1, 8))
    assert {record.case.search.tries for record in records} == {7}


def test_listed_values_fewer_than_the_budget_are_all_tried_once(tmp_path):
    asked = {"objective": "latency", "over": {"batch": [8, 1, 4, 2]}, "budget": 50}
    records = run(tmp_path, CurveEngine(best_at_24), ONE | {"search": asked})
    assert sorted(batches(records)) == [1, 2, 4, 8] and {record.case.search.tries for record in records} == {4}
    assert searches(records)[0].best.case.batch == min((1, 2, 4, 8), key=lambda b: b * (100 + (b - 24) ** 2))


def test_a_failed_try_counts_as_worst_and_as_a_try(tmp_path):
    engine = CurveEngine(lambda case: None if case.batch > 20 else best_at_24(case))
    records = run(tmp_path, engine, ONE | {"search": BY_BATCH})
    assert len(records) == 7 and [record.status for record in records].count("oom") >= 1
    (search,) = searches(records)
    assert search.count == 7 and search.best.case.batch <= 20
    assert search.mark(search.best) == "best of 7"


def test_a_search_whose_tries_all_fail_ends_and_has_no_best(tmp_path):
    records = run(tmp_path, CurveEngine(lambda _: None), ONE | {"search": BY_BATCH | {"confirm": True}})
    (search,) = searches(records)
    assert len(records) == 7 and search.best is None and not search.confirmations
    assert search.mark(records[0]) == "try 1 of 7"


@pytest.mark.parametrize("most", [0, 1, 5, 7])
def test_a_killed_search_goes_on_from_its_records_alone(tmp_path, most):
    asked = ONE | {"search": BY_BATCH | {"confirm": True}}
    whole = run(tmp_path / "whole", CurveEngine(best_at_24), asked)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", CurveEngine(best_at_24, most=most), asked)
    again = CurveEngine(best_at_24)
    resumed = run(tmp_path / "cut", again, asked)
    assert batches(resumed) == batches(whole) and len(again.jobs) == 8 - most
    assert [record.case_id for record in resumed] == [record.case_id for record in whole]


def test_a_larger_budget_measures_only_what_is_missing(tmp_path):
    first = run(tmp_path, CurveEngine(best_at_24), ONE | {"search": BY_BATCH | {"budget": 3}})
    engine = CurveEngine(best_at_24)
    records = run(tmp_path, engine, ONE | {"search": BY_BATCH | {"budget": 5, "confirm": True}})
    assert len(engine.jobs) == 3 and [r.record_id for r in records[:3]] == [r.record_id for r in first]
    assert searches(records)[0].count == 5


def test_the_launches_of_a_try_are_one_try(tmp_path):
    """The median of the launches counts; one that failed makes the try a failure."""
    engine = CurveEngine(best_at_24)
    records = run(tmp_path, engine, ONE | {"launches": 3, "search": BY_BATCH | {"budget": 3}})
    assert [(record.case.batch, record.launch) for record in records] == [
        (b, n) for b in (1, 64, 25) for n in (1, 2, 3)
    ]
    (search,) = searches(merge_launches(records))
    assert search.count == 3 and search.best.case.batch == 25
    engine.call_ns = lambda case: None if case.batch == 25 and len(engine.jobs) % 3 == 2 else best_at_24(case)
    engine.jobs = []
    records = run(tmp_path, engine, ONE | {"launches": 3, "search": BY_BATCH | {"budget": 3}}, fresh=True)
    (search,) = searches(merge_launches(records))
    assert search.count == 3 and search.best.case.batch == 1


def test_a_search_for_quality_waits_for_it_and_is_confirmed_by_other_images(tmp_path):
    asked = {"objective": "fid", "over": {"settings.cfg": [1.0, 1.5, 2.0, 3.0]}, "budget": 4, "confirm": True}
    engine = CurveEngine(best_at_24, fid=lambda case: abs(case.settings["cfg"] - 1.6) + case.quality.seed)
    case = {"model": "demo/var", "weights": "demo", "settings": {"top_k": 20}, "quality": DIGITS, "search": asked}
    records = run(tmp_path, engine, case)
    assert [record.case.settings["cfg"] for record in records] == [1.0, 3.0, 2.0, 1.5, 1.5]
    assert {record.case.settings["top_k"] for record in records} == {20}
    assert [record.case.quality.seed for record in records] == [0, 0, 0, 0, 1]
    (search,) = searches(records)
    assert search.count == 4 and search.mark(records[3]) == "best of 4"
    assert search.mark(records[4]) == "confirms best of 4" and search.confirmations == (records[4],)


def test_searches_and_plain_cases_share_a_suite(tmp_path):
    plain = ONE | {"batch": 3}
    other = ONE | {"search": {"objective": "memory", "over": {"batch": [1, 2, 3]}, "budget": 2}}
    records = run(tmp_path, CurveEngine(best_at_24), ONE | {"search": BY_BATCH | {"budget": 3}}, plain, other)
    assert batches(records) == [1, 64, 25, 3, 1, 3]
    assert len({record.case_id for record in records}) == 6
    assert [search.best.case.batch for search in searches(records)] == [25, 1]


def test_retrying_failures_takes_the_path_that_their_numbers_lead_to(tmp_path):
    asked = ONE | {"search": BY_BATCH | {"budget": 4}}
    run(tmp_path, CurveEngine(lambda case: None if case.batch == 64 else best_at_24(case)), asked)
    engine = CurveEngine(best_at_24)
    records = run(tmp_path, engine, asked, retry_failed=True)
    assert batches(engine.jobs) == [64] and len(records) == 4 and all(record.status == "ok" for record in records)


def suite_of(folder: Path, *cases):
    return load_suite(str(write_suite(folder / "s.yaml", cases=list(cases))))


def test_a_plan_lists_the_tries_that_are_known_and_counts_the_others(tmp_path):
    asked = ONE | {"search": BY_BATCH | {"confirm": True}}
    suite = suite_of(tmp_path, asked, ONE | {"batch": 5})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CurveEngine(best_at_24, most=3), asked)
    engine = CurveEngine(best_at_24)
    records = run(tmp_path, engine, asked | {"search": BY_BATCH | {"budget": 3}})
    here = engine.where.identity()
    planned = plan(suite.cases, records, lambda _: here).cases
    assert [(case.will, case.further) for case in planned] == [("reuse", 0)] * 3 + [("measure", 4), ("measure", 0)]
    assert [case.case.config.batch for case in planned[:3]] == batches(records)
    assert [case.further for case in plan(suite.cases, records, lambda _: here, fresh=True).cases] == [7, 0]
    assert [case.further for case in plan(suite.cases, records, lambda _: None).cases] == [7, 0]


def test_a_dry_run_says_how_many_points_are_to_come(tmp_path, capsys):
    path = write_suite(tmp_path / "s.yaml", cases=[ONE | {"search": BY_BATCH}, ONE | {"batch": 2}])
    assert main(["run", str(path), "--dry-run", "--out", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "then up to 6 more, whose points follow from its numbers" in said and "up to 6 more of searches" in said
    assert main(["run", str(path), "--dry-run", "--json", "--out", str(tmp_path / "o")]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["further"] == 6 and "further" not in second


def test_a_shard_has_searches_as_a_whole(tmp_path):
    """The records of two shards, merged, are those of one process."""
    cases = [ONE | {"search": BY_BATCH | {"budget": 3}}, ONE | {"batch": 9},
             ONE | {"search": {"objective": "memory", "over": {"batch": [1, 2]}, "budget": 2}}]  # fmt: skip
    suite = suite_of(tmp_path, *cases)
    assert [len(suite.shard(Shard(k, 2)).cases) for k in (1, 2)] == [2, 1]
    alone = run(tmp_path / "alone", CurveEngine(best_at_24), *cases)
    shards = [
        run(tmp_path / str(k), CurveEngine(best_at_24), *chosen) for k, chosen in enumerate((cases[::2], cases[1:2]))
    ]
    merged = [record for shard in shards for record in shard]
    assert sorted(record.case_id for record in merged) == sorted(record.case_id for record in alone)
    marks = [[search.mark(search.best) for search in searches(found)] for found in (merged, alone)]
    assert marks[0] == marks[1] == ["best of 3", "best of 2"]


def test_progress_counts_the_tries_to_come(tmp_path):
    """A failed or reused try counts as well: at the end nothing is left."""
    cases = [ONE | {"search": BY_BATCH | {"budget": 3, "confirm": True}}, ONE | {"batch": 9}]
    suite = suite_of(tmp_path, *cases)
    records = run(tmp_path, CurveEngine(best_at_24), *cases)
    bar = ProgressBar(Console(quiet=True), cases=suite.cases)
    (task,) = bar.tasks
    whole, names = task.total, []
    for record in records:
        found = suite.cases[0].model_copy(update={"case_id": record.case_id, "config": record.case})
        bar.case_started(found, Part.SPEED)
        names.append(task.description.partition(" starting")[0])
        bar.case_finished(found, record)
    assert names == ["speed 1/5", "speed 3/5", "speed 4/5", "speed 5/5", "speed 2/5"]
    assert whole > 0 and task.completed == task.total


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "SUITE", "--share", "images", "--shard", "1/2"], "its next point follows from the images"),
        (["check", "--against", "HEAD", "--suite", "SUITE"], "two sides would try different points"),
        (["baseline", "calibrate", "--suite", "SUITE"], "two runs would try different points"),
    ],
)
def test_verbs_that_need_fixed_cases_refuse_a_search(tmp_path, capsys, arguments, words):
    suite = write_suite(tmp_path / "s.yaml", cases=[ONE | {"search": BY_BATCH}])
    assert main([str(suite) if argument == "SUITE" else argument for argument in arguments]) == 2
    assert words in (said := capsys.readouterr().err) and said.count("\n") == 1


@pytest.fixture(scope="module")
def example() -> list[dict]:
    """The cases of the suite in docs/search.md."""
    text = (Path(__file__).parents[3] / "docs" / "search.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    content = yaml.safe_load(block)
    return [content["defaults"] | case for case in content["cases"]]


def test_the_example_of_the_page_runs(tmp_path, example):
    check_cases(suite_of(tmp_path, *example).cases)
    engine = CurveEngine(best_at_24, fid=lambda case: abs(case.settings["cfg"] - 2) + case.settings["top_k"])
    records = run(tmp_path, engine, *example)
    by_batch, by_fid = searches(records)
    assert (by_batch.count, by_fid.count) == (8, 9) and by_batch.best.case.batch in range(20, 29)
    assert (by_fid.best.case.settings["cfg"], by_fid.best.case.settings["top_k"]) == (2.0, 10)
    assert by_fid.confirmed is not None and by_batch.confirmed is None


@pytest.mark.slow
def test_a_real_search_resumes_and_says_best_of_2(tmp_path, example, capsys):
    path = write_suite(tmp_path / "s.yaml", cases=[example[0] | {"repeats": 1, "max_warmup": 1}])
    asked = [
        "run",
        str(path),
        "--set",
        "search.budget=2",
        "--out",
        str(tmp_path / "run"),
        "--no-report",
        "--no-control",
    ]
    assert main(asked) == 0
    first = capsys.readouterr()
    assert "best of 2" in first.out
    assert main(asked) == 0
    assert (again := capsys.readouterr()).out == first.out and again.err.count("already measured") == 2
