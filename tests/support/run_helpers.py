"""Outcomes, suites and an engine for tests of the runner: nothing here needs a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import records
from records import environment, measured
from warm_program import ENGINE_NAME

from arvbench.harness.jobs import Event, EventListener, Job, Part, Result
from arvbench.harness.run.crew import room_on_machine
from arvbench.harness.run.runner import RunListener
from arvbench.harness.suites.suite import Case, Suite
from arvbench.results.schema import CaseConfig, Environment, Failed, Finding, Record, Status


def failure(reason: str = "made up", status: Any = Status.ERROR) -> Failed:
    return Failed(status=status, reason=reason)


def case(case_id: str = "a", **changes: Any) -> Case:
    return Case(case_id=case_id, config=CaseConfig(**({"model": "demo/var", "weights": "random:0"} | changes)))


def suite(*cases: Case) -> Suite:
    return Suite(name="made-up", description="", cases=cases)


def record(record_id: str = "1") -> Record:
    return records.record(record_id=record_id, case_id=f"case {record_id}", outcome=failure())


class SilentListener(RunListener):
    """Ignores every event of a run."""


class ScriptedEngine:
    """Returns `outcomes`, one per job, and records the jobs; raises an outcome that is an exception.

    The engine reports the environment `where`, its workers report `environment()`.
    """

    def __init__(self, *outcomes: Failed | BaseException, where: Environment | None = None) -> None:
        self._outcomes = list(outcomes)
        self._where = where or environment()
        self.jobs: list[Job] = []

    def environment(self, device: str) -> Environment:
        return self._where

    def room(self, job: Job, others: Sequence[Job]) -> bool:
        return False

    def run(self, job: Job, listener: EventListener) -> Result:
        self.jobs.append(job)
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return Result(outcome=outcome, environment=environment())

    def close(self) -> None: ...


DIGITS = {"protocols": ["digits-cnn"], "reference": "digits", "images": 10}
FINDING = Finding(code="made-up", severity="note", text="of the second part")


class TwoPartEngine:
    """Measures both parts of a case at once, on a machine of two cores; `then` is called with a second part."""

    def __init__(self, then: Callable[[Job], None] | None = None, **where) -> None:
        self.where: Environment = environment(**({"cores": 2} | where))
        self.then, self.jobs, self.closed, self.weights_random = then, [], 0, False

    @property
    def parts(self) -> list[str]:
        return [f"{job.part} {job.case_id}" for job in self.jobs]

    def environment(self, device: str) -> Environment:
        return self.where

    def room(self, job: Job, others: Sequence[Job]) -> bool:
        return room_on_machine(job, others, self.where.cores)

    def run(self, job: Job, listener: EventListener) -> Result:
        self.jobs.append(job)
        listener(Event(phase="load"))
        if job.part is Part.QUALITY:
            if self.then is not None:
                self.then(job)
            return job.speed.model_copy(
                update={"outcome": job.speed.outcome.model_copy(update={"findings": (FINDING,)})}
            )
        outcome = measured(job.case.model, job.case, seed=1, speed=1.0, gpu=None)
        setup = outcome.setup.model_copy(update={"weights_random": self.weights_random})
        return Result(outcome=outcome.model_copy(update={"setup": setup}), environment=self.where)

    def close(self) -> None:
        self.closed += 1


def asking(case_id: str, **changes):
    return case(case_id, **({"weights": "demo", "threads": 1, "quality": DIGITS} | changes))


def write_suite(path: Path, **content: Any) -> Path:
    """A suite file; JSON is YAML."""
    path.write_text(json.dumps({"name": "made-up"} | content))
    return path


def workers_of(pid: int) -> list[psutil.Process]:
    """Worker processes, fresh or forked, that run for the process `pid`."""
    return [process for process in psutil.Process(pid).children(recursive=True) if _is_worker(process)]


def warm_processes_of(pid: int) -> list[psutil.Process]:
    """Processes that workers of the process `pid` are forked from."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if _runs(child, "warm") and not _runs(_parent(child), "warm")]


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.NoSuchProcess:
        return None


def _is_worker(process: psutil.Process) -> bool:
    try:
        parent = process.parent()
        # A forked worker has the command line of the process that it was forked from, and so has, for a moment, any
        # program that a worker starts.
        if _runs(process, "worker"):
            return not _runs(parent, "worker")
        return _runs(process, "warm") and _runs(parent, "warm") and not _runs(parent.parent(), "warm")
    except psutil.NoSuchProcess:  # it ended while we looked
        return False


def _runs(process: psutil.Process | None, module: str) -> bool:
    try:
        if process is None:
            return False
        forked = module == "warm" and process.name() == ENGINE_NAME
        return forked or f"arvbench.harness.run.{module}" in process.cmdline()
    except psutil.NoSuchProcess:
        return False
