"""Launches of a case: a job, a process and a record each; a rerun measures those that are missing."""

from __future__ import annotations

import contextlib
import os
from contextlib import closing
from pathlib import Path

import pytest
from run_helpers import ScriptedEngine, SilentListener, environment, failure, warm_processes_of, write_suite

from arvbench.harness.jobs import Finished, Job, Result, result_path
from arvbench.harness.machine.forks import CAN_FORK
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.runner import run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import load_suite
from arvbench.results.schema import CaseConfig, Record

CASE = {"model": "demo/var", "weights": "random:0"}


@pytest.fixture
def store(tmp_path) -> RecordStore:
    ready = RecordStore(tmp_path / "run")
    ready.prepare()
    return ready


def run(store: RecordStore, engine: ScriptedEngine, launches: int, batches: tuple[int, ...] = (1, 2)) -> list[Record]:
    case = CASE | {"launches": launches, "batch": list(batches)}
    suite = load_suite(str(write_suite(store.folder.parent / "s.yaml", cases=[case])))
    return run_suite(suite, store, engine, SilentListener())


def places(jobs: list[Job] | list[Record]) -> list[tuple[int, int]]:
    return [(job.case.batch, job.launch) for job in jobs]


def test_every_launch_is_a_job_and_a_record_of_its_own(store):
    engine = ScriptedEngine(*[failure()] * 6)
    records = run(store, engine, 3)
    rounds = [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3)]
    assert places(engine.jobs) == places(records) == places(store.records()) == rounds
    assert len({record.fingerprint for record in records}) == len({job.record_id for job in engine.jobs}) == 6
    assert len({record.case_id for record in records}) == 2


def test_an_interrupted_run_goes_on_at_the_missing_launches(store):
    with pytest.raises(KeyboardInterrupt):
        run(store, ScriptedEngine(*[failure()] * 3, KeyboardInterrupt()), 3)
    engine = ScriptedEngine(*[failure()] * 3)
    records = run(store, engine, 3)
    assert places(engine.jobs) == [(2, 2), (1, 3), (2, 3)]
    assert [record.launch for record in records] == [1, 1, 2, 2, 3, 3] and len(store.records()) == 6


@pytest.mark.parametrize(("before", "after", "measured"), [(1, 3, [2, 3]), (3, 3, []), (3, 2, [])])
def test_another_number_of_launches_measures_only_those_that_are_missing(store, before, after, measured):
    first = run(store, ScriptedEngine(*[failure()] * before), before, batches=(1,))
    engine = ScriptedEngine(*[failure()] * len(measured))
    again = run(store, engine, after, batches=(1,))
    assert [job.launch for job in engine.jobs] == measured
    assert again[: len(first)] == first[:after]


def test_a_launch_whose_runner_was_killed_keeps_its_number(store):
    class Killed(ScriptedEngine):
        def run(self, job, listener) -> Result:
            result = super().run(job, listener)
            if job.launch == 2:
                identity = fingerprint(job.case, result.environment, launch=job.launch)
                left = Finished(job=job, result=result, fingerprint=identity)
                result_path(job.folder, job.record_id).write_text(left.model_dump_json())
                raise KeyboardInterrupt
            return result

    with contextlib.suppress(KeyboardInterrupt):
        run(store, Killed(*[failure()] * 3), 3, batches=(1,))
    engine = ScriptedEngine(failure())
    records = run(store, engine, 3, batches=(1,))
    assert [job.launch for job in engine.jobs] == [3]
    assert [record.launch for record in records] == [record.launch for record in store.records()] == [1, 2, 3]


def test_the_launch_is_part_of_the_identity_and_their_number_is_not():
    one, many = (CaseConfig(**CASE, launches=launches) for launches in (1, 8))
    here = environment()
    assert fingerprint(one, here) == fingerprint(many, here) == fingerprint(many, here, launch=1)
    assert len({fingerprint(many, here, launch=launch) for launch in range(1, 9)}) == 8


@pytest.mark.skipif(not CAN_FORK, reason="needs Linux")
def test_launches_of_a_case_share_no_warm_process_and_those_of_a_round_do(tmp_path: Path):
    warm: list[list[int]] = []
    with closing(LocalEngine()) as engine:
        for launch, batch in [(1, 1), (1, 2), (2, 1)]:
            case = CaseConfig(model="demo/var", weights=str(tmp_path / "missing"), batch=batch, launches=2)
            job = Job(record_id=f"r{len(warm)}", case=case, folder=tmp_path, launch=launch)
            assert "missing" in engine.run(job, lambda event: None).outcome.reason
            warm.append([process.pid for process in warm_processes_of(os.getpid())])
    assert [len(pids) for pids in warm] == [1, 1, 1]
    assert warm[0] == warm[1] != warm[2]
