"""Runs of a search: which points are tried, with what is a failure, and after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from records import environment, measured
from run_helpers import SilentListener, failure, write_suite

from arvbench.harness.jobs import Job, Part, Result
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import load_suite
from arvbench.results.launches import merge_launches
from arvbench.results.schema import Quality, Record, Status
from arvbench.results.search import searches

ONE = {"model": "demo/var", "weights": "random:0"}
BY_BATCH = {"objective": "images/s", "over": {"batch": {"low": 1, "high": 64}}, "budget": 7}
DIGITS = {"protocols": ["digits-cnn"], "reference": "digits", "images": 10}


class CurveEngine:
    """Measures `call_ns(case)`; a case for which that is None fails. Stops, as a kill would, after `most` jobs."""

    def __init__(self, call_ns, *, fid=None, most: int = 10_000) -> None:
        self.call_ns, self.fid, self.most, self.jobs = call_ns, fid, most, []

    def environment(self, device: str):
        return environment()

    def room(self, job: Job, others) -> bool:
        return False

    def close(self) -> None: ...

    def run(self, job: Job, listener) -> Result:
        if len(self.jobs) == self.most:
            raise KeyboardInterrupt
        self.jobs.append(job)
        call_ns = self.call_ns(job.case)
        if call_ns is None:
            return Result(outcome=failure("out of memory", Status.OOM), environment=environment())
        outcome = measured(job.case.model, job.case, seed=1, speed=1.0, gpu=None)
        timings = [
            timing.model_copy(update={"samples_ns": (call_ns,) * 3}) if timing.scope == "images" else timing
            for timing in outcome.timings
        ]
        changes: dict[str, Any] = {"timings": tuple(timings)}
        if job.part is Part.QUALITY and self.fid:
            value, name = self.fid(job.case), "digits-cnn"
            changes["quality"] = (
                Quality(metric="fid", value=value, protocol=name, protocol_name=name, protocol_id="1", n_samples=10),
            )
        setup = outcome.setup.model_copy(update={"weights_random": False})
        return Result(outcome=outcome.model_copy(update=changes | {"setup": setup}), environment=environment())


def run(folder: Path, engine: CurveEngine, *cases: dict[str, Any], **options: Any) -> list[Record]:
    folder.mkdir(exist_ok=True)
    suite = load_suite(str(write_suite(folder / "s.yaml", cases=list(cases))))
    store = RecordStore(folder / "run")
    store.prepare()
    return run_suite(suite, store, engine, SilentListener(), options=RunOptions(**options))


def best_at_24(case) -> int:
    """Time of a call whose throughput is highest at 24 images."""
    return int(1e6 * case.batch * (100 + (case.batch - 24) ** 2))


def batches(made) -> list[int]:
    """Batches of records or of jobs."""
    return [one.case.batch for one in made]


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


@pytest.mark.parametrize("most", range(8))
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
