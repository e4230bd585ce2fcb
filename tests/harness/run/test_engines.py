"""The engines of this machine: a process per case, forked from a warm one or started fresh, with equal results."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch
from run_helpers import warm_processes_of, workers_of

from arvbench.adapters.loading import usable_device
from arvbench.errors import HostError
from arvbench.harness.jobs import Event, Job, Result
from arvbench.harness.machine.forks import CAN_FORK, start_warm
from arvbench.harness.run.engines import local
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.engines.spawn import SpawnEngine
from arvbench.results.schema import CaseConfig, Measured, Status

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="needs Linux")
CASE = {"model": "demo/detailflow", "weights": "demo", "repeats": 1, "max_warmup": 1, "threads": 1, "sample_sheet": 2}


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    with closing(LocalEngine()) as forked:
        yield forked


@pytest.fixture
def users_engine() -> Iterator[LocalEngine]:
    """The engine with a warm process that is started as users do, not forked from that of the tests."""
    with mock.patch.object(local, "start_warm", start_warm), closing(LocalEngine()) as own:
        own.begin()
        assert len(warm_processes_of(os.getpid())) == 1, "before any case"
        yield own


class Watch:
    """Notes the processes at every event of a job."""

    def __init__(self) -> None:
        self.workers: set[int] = set()
        self.groups: set[int] = set()
        self.parents: set[int] = set()
        self.warm_threads: set[int] = set()

    def __call__(self, event: Event) -> None:
        for worker in workers_of(os.getpid()):
            self.workers.add(worker.pid)
            self.groups.add(os.getpgid(worker.pid))
            self.parents.add(worker.ppid())
        for warm in warm_processes_of(os.getpid()):
            self.warm_threads.add(warm.num_threads())


def measured(engine: SpawnEngine, folder: Path, **changes: object) -> tuple[Result, Watch]:
    watch = Watch()
    job = Job(record_id="r1", case=CaseConfig(**(CASE | changes)), folder=folder)
    return engine.run(job, watch), watch


def test_cases_fork_from_one_process_that_never_has_threads_and_start_fresh_on_request(users_engine, tmp_path):
    (first, one), (second, two) = (measured(users_engine, tmp_path / name) for name in ("one", "two"))
    fresh, three = measured(SpawnEngine(), tmp_path / "three")
    assert [warm.pid for warm in warm_processes_of(os.getpid())] == list(one.parents) == list(two.parents)
    assert three.parents == {os.getpid()} and one.warm_threads | two.warm_threads == {1}
    assert len(one.workers | two.workers | three.workers) == 3
    for watch in (one, two, three):
        assert watch.groups == watch.workers  # each leads a group of its own
    assert not workers_of(os.getpid())

    outcomes = [result.outcome for result in (first, second, fresh)]
    assert all(isinstance(outcome, Measured) for outcome in outcomes)
    assert outcomes[0].setup == outcomes[1].setup == outcomes[2].setup
    assert outcomes[0].correctness == outcomes[1].correctness == outcomes[2].correctness
    assert first.environment.source_sha256 == fresh.environment.source_sha256
    sheets = [(tmp_path / name / "samples" / "r1.png").read_bytes() for name in ("one", "two", "three")]
    assert sheets[0] == sheets[1] == sheets[2]
    peaks = [outcome.memory.peak_bytes for outcome in outcomes]
    assert max(peaks) < 1.15 * min(peaks), "libraries count in the resident set, however a worker started"


def test_a_case_outlives_the_death_of_the_warm_process_only_as_an_error(engine, tmp_path):
    def kill_warm(event: Event) -> None:
        if event.phase == "load":
            for warm in warm_processes_of(os.getpid()):
                warm.send_signal(signal.SIGKILL)

    job = Job(record_id="r1", case=CaseConfig(**CASE), folder=tmp_path)
    outcome = engine.run(job, kill_warm).outcome
    assert outcome.status is Status.ERROR and "SIGKILL" in outcome.reason
    assert not workers_of(os.getpid())
    assert measured(engine, tmp_path)[0].outcome.status is Status.OK


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_cuda_case_starts_fresh(engine, tmp_path):
    job = Job(record_id="r1", case=CaseConfig(**CASE, device="cuda"), folder=tmp_path)
    with Path(os.devnull).open("r+b") as nothing:
        arguments = job, ["--result", str(tmp_path / "result")], nothing, nothing.fileno(), time.monotonic() + 60
        with engine.worker(*arguments) as worker:
            assert psutil.Process(worker.pid).ppid() == os.getpid()
    with pytest.raises(HostError, match="no usable GPU here"):
        usable_device("cuda")


def test_a_closed_engine_has_no_process_left(engine, tmp_path):
    assert measured(engine, tmp_path)[0].outcome.status is Status.OK
    (warm,) = warm_processes_of(os.getpid())
    engine.close()
    assert not warm.is_running() and warm_processes_of(os.getpid()) == []
