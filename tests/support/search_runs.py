"""Runs of searches for tests, with an engine that measures a given curve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from records import environment, measured
from run_helpers import SilentListener, failure, write_suite

from arvbench.harness.jobs import Job, Part, Result
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import load_suite
from arvbench.results.schema import CaseConfig, Environment, Quality, Record, Status

ONE = {"model": "demo/var", "weights": "random:0"}
BY_BATCH = {"objective": "images/s", "over": {"batch": {"low": 1, "high": 64}}, "budget": 7}
DIGITS = {"protocols": ["digits-cnn"], "reference": "digits", "images": 10}


class CurveEngine:
    """Measures `call_ns(case)`; a case for which that is None fails. Stops, as a kill would, after `most` jobs."""

    def __init__(
        self,
        call_ns: Callable[[CaseConfig], int | None],
        *,
        fid: Callable[[CaseConfig], float] | None = None,
        most: int = 10_000,
        where: Environment | None = None,
    ) -> None:
        self.call_ns, self.fid, self.most, self.where = call_ns, fid, most, where or environment()
        self.jobs: list[Job] = []

    def environment(self, device: str) -> Environment:
        return self.where

    def room(self, job: Job, others) -> bool:
        return False

    def close(self) -> None: ...

    def run(self, job: Job, listener) -> Result:
        if len(self.jobs) == self.most:
            raise KeyboardInterrupt
        self.jobs.append(job)
        call_ns = self.call_ns(job.case)
        if call_ns is None:
            return Result(outcome=failure("out of memory", Status.OOM), environment=self.where)
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
        return Result(outcome=outcome.model_copy(update=changes | {"setup": setup}), environment=self.where)


def run(folder: Path, engine: CurveEngine, *cases: dict[str, Any], **options: Any) -> list[Record]:
    """Run cases in the folder `run` of a folder."""
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
