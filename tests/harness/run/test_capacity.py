"""Search for the largest batch."""

from __future__ import annotations

import sys

import pytest
from records import measured
from run_helpers import ScriptedEngine, case, failure

from arvbench.errors import UserError
from arvbench.harness.jobs import Job, Result
from arvbench.harness.run.capacity import measure_capacity, search
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.suites.suite import load_suite
from arvbench.results.capacity import Probe
from arvbench.results.schema import Measured, Status

LIMIT = {"memory_limit_bytes": 2**40}


def up_to(most: int, tried: list[int] | None = None):
    def attempt(batch: int) -> Probe:
        if tried is not None:
            tried.append(batch)
        return Probe(batch=batch, status="ok" if batch <= most else "oom")

    return attempt


@pytest.mark.parametrize("limit", range(1, 70))
def test_the_search_finds_the_limit_and_tries_no_batch_twice(limit):
    tried: list[int] = []
    found = search(up_to(limit, tried), first=1, most=64)
    assert max(probe.batch for probe in found.probes if probe.status == "ok") == min(limit, 64)
    assert found.ended == ("found" if limit < 64 else "most")
    assert len(tried) == len(set(tried)) <= 13


def test_the_search_begins_at_the_batch_of_the_case_and_ends_when_that_fails():
    assert [probe.batch for probe in search(up_to(20), first=6, most=100).probes] == [6, 12, 24, 18, 21, 19, 20]
    assert [probe.batch for probe in search(up_to(3), first=6, most=100).probes] == [6]


def test_another_failure_than_memory_stops_the_search():
    def attempt(batch: int) -> Probe:
        return Probe(batch=batch, status="ok" if batch < 8 else "timeout")

    found = search(attempt, first=1, most=64)
    assert found.ended == "stopped" and found.probes[-1].batch == 8


class BatchEngine(ScriptedEngine):
    """Fits batches up to a limit."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def run(self, job, listener):
        self.jobs.append(job)
        if job.case.batch > self.most:
            return Result(outcome=failure("made up", Status.OOM))
        return Result(outcome=measured("demo/var", job.case, seed=0, speed=1.0, gpu=None))


def capacity_job(tmp_path, **changes) -> Job:
    given = {"capacity": {"most": 64}, "timeout_s": 500} | LIMIT | changes
    return Job(record_id="r", case=case(**given).config, folder=tmp_path)


def test_a_record_has_the_numbers_of_its_own_batch_and_the_search(tmp_path):
    engine, notes = BatchEngine(10), []
    job = capacity_job(tmp_path, batch=2, cache="window:2", trace_memory=True)
    outcome = measure_capacity(job, lambda event: notes.append(event.note), engine).outcome
    assert isinstance(outcome, Measured) and outcome.capacity is not None
    assert next(timing.images for timing in outcome.timings) == 2
    assert (outcome.capacity.max_batch, outcome.capacity.too_large) == (10, 11)
    assert outcome.capacity.limit_bytes == 2**40
    assert notes[:2] == ["batch 2: ok", "batch 4: ok"] and notes[-1] == "batch 11: oom"
    first, *others = engine.jobs
    assert (first.case.drift_images, first.case.trace_memory) == (64, True)
    assert {(other.case.drift_images, other.case.trace_memory) for other in others} == {(2, False)}
    assert all(other.case.capacity is None and other.case.timeout_s <= 500 for other in engine.jobs)


def test_a_first_batch_that_fails_is_the_outcome(tmp_path):
    failed = measure_capacity(capacity_job(tmp_path), lambda event: None, BatchEngine(0)).outcome
    assert failed.status is Status.OOM


def test_a_search_that_has_used_up_its_time_ends(tmp_path):
    job = capacity_job(tmp_path).model_copy(update={"spent_s": 501.0})
    engine = BatchEngine(10)
    outcome = measure_capacity(job, lambda event: None, engine).outcome
    assert outcome.status is Status.TIMEOUT and not engine.jobs


BAD = {
    "no limit on a CPU": ({}, "needs memory_limit_bytes"),
    "begin above the end": ({"batch": 9, "capacity": {"most": 4}, **LIMIT}, "begins at batch 9, above most: 4"),
    "with pictures": ({"sample_sheet": 1, **LIMIT}, "has no quality, no sample_sheet and no search"),
    "most 0": ({"capacity": {"most": 0}, **LIMIT}, "capacity.most"),
    "unknown key": ({"capacity": {"mots": 4}, **LIMIT}, "most"),
}


@pytest.mark.parametrize("name", BAD)
def test_requests_that_cannot_be_searched_are_refused(name, tmp_path):
    changes, says = BAD[name]
    file = tmp_path / "s.yaml"
    entry = {"model": "demo/var", "weights": "demo", "capacity": {"most": 8}} | changes
    file.write_text(f"name: s\ncases:\n  - {entry}\n")
    with pytest.raises(UserError, match=says):
        load_suite(str(file))


class OpenEngine(LocalEngine):
    """Stays open for the next search."""

    def close(self) -> None: ...


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of memory on the CPU needs Linux")
def test_workers_that_really_run_out_of_memory_say_why_in_one_line(tmp_path):
    engine = OpenEngine()

    def reason(**changes) -> str:
        job = capacity_job(tmp_path, repeats=1, max_warmup=1, threads=1, **changes)
        failed = measure_capacity(job, lambda event: None, engine).outcome
        assert failed.status is Status.OOM and "\n" not in failed.reason
        return failed.reason

    try:
        assert "the libraries alone take" in reason(memory_limit_bytes=2**20)
        assert "the weights of var-d16 do not fit" in reason(model="var-d16", memory_limit_bytes=700 * 2**20)
        most = {"batch": 2048, "capacity": {"most": 4096}}
        assert "at batch 2048 within memory_limit_bytes" in reason(memory_limit_bytes=700 * 2**20, **most)
    finally:
        LocalEngine.close(engine)
