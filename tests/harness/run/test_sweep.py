"""Runs of a sweep: plans, retries of what was lost from outside, GPUs by worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from records import environment
from run_helpers import ScriptedEngine, SilentListener, TwoPartEngine, asking, case, failure, suite, workers_of

from arvbench.errors import HostError
from arvbench.harness.cli import main
from arvbench.harness.jobs import Job, Part, Result
from arvbench.harness.run.engines.devices import VISIBLE, Devices
from arvbench.harness.run.engines.spawn import SpawnEngine
from arvbench.harness.run.plan import plan
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.results.schema import Status


@pytest.fixture
def store(tmp_path) -> RecordStore:
    ready = RecordStore(tmp_path / "run")
    ready.prepare()
    return ready


class LosingEngine(ScriptedEngine):
    """Loses its first `lost` workers, then measures."""

    def __init__(self, lost: int, part: Part = Part.SPEED) -> None:
        super().__init__()
        self.left, self.part, self.inner = lost, part, TwoPartEngine()

    def run(self, job, listener):
        self.jobs.append(job)
        if job.part is self.part and self.left:
            self.left -= 1
            return Result(outcome=failure("killed by SIGKILL"), environment=environment(), lost=True)
        return self.inner.run(job, listener)


@pytest.mark.parametrize("part", [Part.SPEED, Part.QUALITY])
def test_a_lost_worker_is_tried_again_and_its_failure_stays(store, part):
    engine = LosingEngine(2, part)
    (record,) = run_suite(suite(asking("a")), store, engine, SilentListener(), options=RunOptions(retries=2))
    assert record.status is Status.OK
    assert [r.status for r in store.records()] == [Status.ERROR, Status.ERROR, Status.OK]
    assert len({r.record_id for r in store.records()}) == 3
    assert [job.part for job in engine.jobs].count(part) == 3
    assert [path.name for path in store.folder.iterdir()] == ["records.jsonl"]


def test_attempts_end_with_their_number(store):
    (record,) = run_suite(suite(asking("a")), store, LosingEngine(5), SilentListener(), options=RunOptions(retries=1))
    assert record.status is Status.ERROR and len(store.records()) == 2


def test_a_failure_of_the_case_is_not_tried_again(store):
    engine = ScriptedEngine(failure("its own fault"))
    run_suite(suite(case("a")), store, engine, SilentListener(), options=RunOptions(retries=3))
    assert len(engine.jobs) == 1


def test_a_worker_killed_from_outside_is_lost(tmp_path):
    engine = SpawnEngine()

    def kill(event) -> None:
        for worker in workers_of(os.getpid()):
            worker.send_signal(signal.SIGKILL)

    result = engine.run(Job(record_id="r", case=case().config, folder=tmp_path), kill)
    assert result.lost and result.outcome.status is Status.ERROR


def test_a_plan_says_what_is_reused_and_what_the_last_measurement_took(store):
    engine = TwoPartEngine()
    run_suite(suite(case("a", weights="demo")), store, engine, SilentListener())
    (old,) = store.records()
    cases = [case("a", weights="demo"), case("b", weights="demo", batch=2)]
    here = old.environment.identity()
    first, second = plan(cases, store.records(), lambda device: here).cases
    assert (first.will, second.will) == ("reuse", "measure")
    assert first.seconds == (old.finished - old.started).total_seconds() and second.seconds is None
    assert first.peak_bytes == old.outcome.memory.peak_bytes
    assert plan(cases, store.records(), lambda device: here, fresh=True).cases[0].will == "measure again"
    assert [p.will for p in plan(cases, store.records(), lambda device: None).cases] == ["measure"] * 2
    assert plan(cases, store.records(), lambda device: here | {"cores": 99}).cases[0].will == "measure"


def test_dry_run_prints_every_case_and_measures_none(tmp_path, capsys):
    assert main(["run", "demo", "--models", "demo/var", "--dry-run", "--json", "--out", str(tmp_path / "o")]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [case["will"] for case in planned] == ["measure"] * 3 and not (tmp_path / "o").exists()
    assert main(["run", "demo", "--shard", "1/7", "--dry-run", "--out", str(tmp_path / "o")]) == 0
    assert "to measure" in capsys.readouterr().out


def test_a_plan_of_cpu_cases_imports_no_torch(tmp_path):
    code = (
        "import sys; from arvbench.harness.cli import main; "
        f"code = main(['run', 'demo', '--dry-run', '--out', {str(tmp_path)!r}]); "
        "sys.exit(code or ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("shard", ["0/0", "3/2", "x"])
def test_a_shard_that_is_none_is_refused(shard, capsys):
    assert main(["run", "demo", "--shard", shard, "--dry-run"]) == 2
    assert "write k/n" in capsys.readouterr().err


def test_every_worker_on_cuda_sees_one_free_gpu():
    devices = Devices(["0", "MIG-7"])
    with devices.one("cuda") as first, devices.one("cuda") as second:
        assert (first, second) == ({VISIBLE: "0"}, {VISIBLE: "MIG-7"})
        third: list[dict[str, str]] = []
        waiting = threading.Thread(target=lambda: third.append(devices.one("cuda").__enter__()))
        waiting.start()
        assert not third
    waiting.join()
    assert third == [{VISIBLE: "MIG-7"}] or third == [{VISIBLE: "0"}]
    with devices.one("cpu") as unpinned, devices.one("cuda:1") as named, Devices().one("cuda") as any_gpu:
        assert unpinned == named == any_gpu == {}


def test_fewer_gpus_than_named_are_told():
    with pytest.raises(HostError, match=r"--devices names 2 \(0, 1\), this machine has 1"):
        Devices(["0", "1"]).check(1)


def test_a_worker_has_the_variable_of_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "set back by the test")
    seen: list[str] = []

    def look(event) -> None:
        seen.extend(worker.environ()[VISIBLE] for worker in workers_of(os.getpid()))

    SpawnEngine(devices=["5", "6"]).run(Job(record_id="r", case=case(device="cuda").config, folder=tmp_path), look)
    assert set(seen) == {"5"} and os.environ[VISIBLE] == "5,6"


def test_untimed_cases_take_all_gpus_and_timed_ones_are_alone(monkeypatch):
    monkeypatch.setenv(VISIBLE, "set back by the test")
    engine = SpawnEngine(devices=["0", "1"])
    monkeypatch.setattr(engine, "environment", lambda device: environment(cores=8))

    def job(part: Part, device: str = "cuda") -> Job:
        return Job(record_id="r", case=case(device=device).config, folder="x", part=part)

    untimed, timed = job(Part.QUALITY), job(Part.SPEED)
    assert engine.room(untimed, [untimed]) and not engine.room(untimed, [untimed, untimed])
    assert not engine.room(timed, [untimed]) and not engine.room(untimed, [timed])
    assert not SpawnEngine(workers=1).room(job(Part.QUALITY, "cpu"), [untimed])


def test_a_shard_beside_a_rank_is_refused(tmp_path, capsys):
    assert main(["run", "demo", "--shard", "1/2", "--engine", "torchrun", "--out", str(tmp_path), "--dry-run"]) == 2
    assert "leave one away" in capsys.readouterr().err
