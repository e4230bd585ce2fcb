"""A run in two parts: the speed of all cases alone, then their quality side by side, and nothing finished is lost."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
from records import environment
from run_helpers import DIGITS, FINDING, SilentListener, TwoPartEngine, asking, case, failure, suite

from arvbench.errors import HostError
from arvbench.files import hidden, locked
from arvbench.harness.jobs import (
    FEATURES_FOLDER,
    SHARED_PREFIX,
    Finished,
    Job,
    Part,
    Result,
    result_path,
)
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.leftovers import living, turn
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.results.schema import Environment, Status


@pytest.fixture
def store(tmp_path) -> RecordStore:
    ready = RecordStore(tmp_path / "run")
    ready.prepare()
    return ready


A, B, SPEED_ALONE = asking("a"), asking("b", batch=2), case("c", weights="demo", threads=1)


def run(store, engine, *cases, listener=None, **options):
    return run_suite(suite(*cases), store, engine, listener or SilentListener(), options=RunOptions(**options))


def interrupted(store, *cases, engine: TwoPartEngine | None = None, **options) -> TwoPartEngine:
    """A run that ends when its first second part runs."""

    def interrupt(job: Job) -> None:
        raise KeyboardInterrupt

    engine = engine or TwoPartEngine()
    engine.then = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(store, engine, *cases, **options)
    return engine


def halves(store) -> list[str]:
    return sorted(path.name for path in store.folder.glob(".result-*"))


def left(store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_the_speed_of_all_cases_comes_first_then_their_quality_two_at_a_time(store):
    both, files = threading.Barrier(2, timeout=60), []

    def meet(job: Job) -> None:
        both.wait()  # neither goes on unless both run
        files.append(result_path(store.folder, job.record_id).is_file())

    engine = TwoPartEngine(meet)
    records = run(store, engine, A, SPEED_ALONE, B)
    assert engine.parts[:3] == ["speed a", "whole c", "speed b"]
    assert sorted(engine.parts[3:]) == ["quality a", "quality b"] and files == [True, True]
    assert [(r.case_id, r.status) for r in records] == [("a", "ok"), ("c", "ok"), ("b", "ok")]
    assert sorted(store.records(), key=lambda r: r.case_id) == sorted(records, key=lambda r: r.case_id)
    assert [bool(r.outcome.findings) for r in records] == [True, False, True]
    assert left(store) == ["records.jsonl"]


@pytest.mark.parametrize(
    ("changes", "cores"),
    [({}, 1), ({"threads": 2}, 2), ({"threads": None}, 64), ({"device": "cuda"}, 64), ({"device": "cuda:1"}, 64),
     ({"quality": DIGITS | {"workers": 2}}, 2)],
)  # fmt: skip
def test_a_second_part_that_takes_all_cores_or_a_gpu_runs_alone(store, changes, cores):
    running = []

    def alone(job: Job) -> None:
        running.append(job.case_id)
        assert running == [job.case_id]
        running.remove(job.case_id)

    both = [asking(name, batch=batch, **changes) for name, batch in (("a", 1), ("b", 2))]
    records = run(store, engine := TwoPartEngine(alone, cores=cores), *both)
    assert [r.status for r in records] == ["ok", "ok"]
    assert engine.parts == ["speed a", "speed b", "quality a", "quality b"], "in order, since each waits for the last"


def test_the_longest_second_part_begins_first(store):
    few, many = asking("few"), asking("many", quality=DIGITS | {"images": 10 * DIGITS["images"]})
    records = run(store, engine := TwoPartEngine(cores=1), few, many, asking("fewer", batch=2))
    assert engine.parts[3:] == ["quality many", "quality few", "quality fewer"]
    assert [r.case_id for r in records] == ["few", "many", "fewer"], "records stay in the order of the suite"


def test_a_speed_survives_its_run_and_is_not_measured_again(store):
    first = interrupted(store, A, SPEED_ALONE)
    assert [r.case_id for r in store.records()] == ["c"] and len(halves(store)) == 1
    engine = TwoPartEngine()
    records = run(store, engine, A, SPEED_ALONE)
    assert engine.parts == ["quality a"]
    assert records[0].started == first.jobs[0].started and records[0].outcome.timings and records[0].outcome.findings
    assert engine.jobs[0].spent_s > 0, "the time of both parts counts in the case's timeout"
    assert left(store) == ["records.jsonl"]


def test_a_speed_of_another_source_machine_or_request_is_stale(store):
    interrupted(store, A)
    engine = TwoPartEngine(source_sha256="7" * 64)
    assert run(store, engine, B)[0].status is Status.OK
    assert engine.parts == ["speed b", "quality b"] and halves(store) == []
    interrupted(store, A)
    run(store, engine := TwoPartEngine(), asking("a", quality=DIGITS | {"images": 11}))
    assert engine.parts == ["speed a", "quality a"]
    assert len(halves(store)) == 1, "the other case can still be asked for"


def test_fresh_measures_the_speed_again_and_keeps_none(store):
    interrupted(store, A)
    run(store, engine := TwoPartEngine(), A, fresh=True)
    assert engine.parts == ["speed a", "quality a"] and left(store) == ["records.jsonl"]
    interrupted(store, A, fresh=True)
    assert len(halves(store)) == 1
    run(store, engine := TwoPartEngine(), A)
    assert engine.parts == [] and left(store) == ["records.jsonl"]


def test_a_retry_goes_on_from_the_speed_of_an_interrupted_retry(store):
    class Failing(TwoPartEngine):
        def run(self, job, listener):
            result = super().run(job, listener)
            return Result(outcome=failure("no disk"), environment=None) if job.part is Part.QUALITY else result

    (failed,) = run(store, Failing(), A)
    assert failed.status is Status.ERROR and failed.outcome.reason == "no disk"
    assert failed.environment == environment(cores=2) and left(store) == ["records.jsonl"]
    interrupted(store, A, retry_failed=True)
    run(store, engine := TwoPartEngine(), A, retry_failed=True)
    assert engine.parts == ["quality a"] and left(store) == ["records.jsonl"]


def test_a_failed_speed_and_random_weights_have_no_second_part(store):
    class Failing(TwoPartEngine):
        def run(self, job, listener):
            self.jobs.append(job)
            return Result(outcome=failure("slow"), environment=self.where)

    assert run(store, engine := Failing(), A)[0].outcome.reason == "slow" and engine.parts == ["speed a"]
    engine = TwoPartEngine()
    engine.weights_random = True
    sheet = asking("d", quality=None, sample_sheet=1)
    assert [r.status for r in run(store, engine, B, sheet)] == ["ok", "ok"]
    assert engine.parts == ["speed b", "speed d", "quality d"] and left(store) == ["records.jsonl"]


def test_what_a_living_run_measured_serves_a_run_beside_it_and_stays(store):
    interrupted(store, A)
    (name,) = halves(store)
    path = store.folder / name
    with living(store) as other:
        half = Finished.model_validate_json(path.read_bytes())
        path.write_text(half.model_copy(update={"job": half.job.model_copy(update={"run": other})}).model_dump_json())
        run(store, TwoPartEngine(source_sha256="7" * 64), SPEED_ALONE)
        assert halves(store) == [name], "stale for that run, and the property of another"
        run(store, engine := TwoPartEngine(), A)
        assert engine.parts == ["quality a"] and halves(store) == [name]
    run(store, engine := TwoPartEngine(), A)
    assert engine.parts == [] and left(store) == ["records.jsonl"]


def test_a_run_never_waits_for_another_while_it_measures(store):
    """Two runs with the same cases in another order would wait for each other."""
    held = turn(store, "")

    class Held(TwoPartEngine):
        def run(self, job, listener):
            nonlocal held
            if job.part is Part.SPEED and job.case_id == "b":
                a = self.jobs[0]
                held = turn(store, identity_of(a, self.where))
                assert held.__enter__()
            return super().run(job, listener)

    def release(job: Job) -> None:
        if job.case_id == "b":
            held.__exit__(None, None, None)

    run(store, engine := Held(release), A, B)
    assert engine.parts == ["speed a", "speed b", "quality b", "quality a"]


def identity_of(job: Job, where: Environment) -> str:
    return fingerprint(job.case, where, job.extractor_files)


def test_a_case_that_another_run_finished_meanwhile_is_reused(store):
    class Beside(TwoPartEngine):
        def run(self, job, listener):
            if job.part is Part.SPEED and job.case_id == "b":
                run(store, TwoPartEngine(), A)
            return super().run(job, listener)

    records = run(store, engine := Beside(), A, B)
    assert engine.parts == ["speed a", "speed b", "quality b"] and [r.status for r in records] == ["ok", "ok"]
    assert len(store.records()) == 2 and left(store) == ["records.jsonl"]


def test_features_that_cases_share_stay_until_a_run_ends_whole(store):
    features = store.folder / FEATURES_FOLDER / f"{SHARED_PREFIX}0"

    def share(job: Job) -> None:
        features.mkdir(parents=True, exist_ok=True)
        (features / "chunk").write_bytes(b"0")
        if job.case_id == "b" and stopping:
            raise KeyboardInterrupt

    stopping = True
    with pytest.raises(KeyboardInterrupt):
        run(store, TwoPartEngine(share, cores=1), A, B)
    assert [r.case_id for r in store.records()] == ["a"] and features.is_dir()
    stopping = False
    with locked(hidden(features, "lock"), shared=True):
        run(store, TwoPartEngine(share, cores=1), A, B)
        assert features.is_dir(), "another process reads it"
    run(store, TwoPartEngine(), A, B)
    assert left(store) == ["records.jsonl"]


def test_an_error_of_one_second_part_ends_the_others(store):
    ended, both = threading.Event(), threading.Barrier(2, timeout=60)

    class Waiting(TwoPartEngine):
        def close(self) -> None:
            super().close()
            ended.set()

    def refuse(job: Job) -> None:
        both.wait()
        if job.case_id == "a":
            raise HostError("no room")
        assert ended.wait(60)

    with pytest.raises(HostError, match="no room"):
        run(store, engine := Waiting(refuse), A, B)
    assert engine.closed == 2 and store.records() == [] and len(halves(store)) == 2
    assert run(store, again := TwoPartEngine(), A, B) and sorted(again.parts) == ["quality a", "quality b"]


def test_a_whole_result_that_a_killed_runner_left_becomes_a_record(store):
    def killed(job: Job) -> None:
        update = {"outcome": job.speed.outcome.model_copy(update={"findings": (FINDING,)})}
        whole = Finished(
            job=job, result=job.speed.model_copy(update=update), fingerprint=identity_of(job, engine.where)
        )
        result_path(store.folder, job.record_id).write_text(whole.model_dump_json())
        raise KeyboardInterrupt

    engine = TwoPartEngine(killed)
    with suppress(KeyboardInterrupt):
        run(store, engine, A)
    (record,) = run(store, again := TwoPartEngine(), A)
    assert again.parts == [] and record.outcome.findings == (FINDING,) and left(store) == ["records.jsonl"]
