"""Checks of a tiny checkout whose launches take no time: `python made_up_checks.py PACKAGE STOP[:NOISE] OPTION...`.

`python made_up_checks.py alone STOP WORD...` runs any command on launches of the running program alone.

Real are the sides, the folder, the stages, the judgement and the command line; a launch is a made-up record.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from records import environment, measured

from arvbench.harness.check.engine import SideEngine
from arvbench.harness.check.sides import built_sides
from arvbench.harness.cli import main
from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.results.schema import Failed, Measured, Outcome, Status

MACHINE = "AMD EPYC 9554, 64 cores"
Speeds = Mapping[tuple[str, str], float]
"""(side, start of the case's name) -> factor of all times; 1 where there is none."""


class Launches:
    """Stands for the workers of both sides."""

    def __init__(self, speeds: Speeds = {}, *, noise: float = 0.005, stop: int | None = None) -> None:  # noqa: B006
        self.jobs: list[tuple[str, Job]] = []
        self.fail: dict[str, str] = {}
        """Side -> reason for which all its launches fail."""
        self._speeds, self._noise, self._stop = speeds, noise, stop

    def __call__(self, engine: SideEngine, job: Job, listener: EventListener) -> Result:
        if len(self.jobs) == self._stop:
            _stop()
        side = job.folder.name
        self.jobs.append((side, job))
        return Result(outcome=self._outcome(side, job), environment=environment())

    def _outcome(self, side: str, job: Job) -> Outcome:
        if side in self.fail:
            return Failed(status=Status.ERROR, reason=self.fail[side])
        found = [speed for (name, case), speed in self._speeds.items() if name == side and job.case_id.startswith(case)]
        seed = int(hashlib.sha256(f"{side} {job.case_id} {job.launch}".encode()).hexdigest()[:8], 16)
        factor = (found or [1.0])[0] * (1 + self._noise * float(np.random.default_rng(seed).standard_normal()))
        return _sped(measured("demo/var", job.case, seed=0, speed=1.0, gpu=None), factor)


def check(package: Path, launches: Launches, options: Sequence[object]) -> int:
    """Run `arvbench check` against the commit before; return its exit code."""
    with (
        patch.object(SideEngine, "run", lambda engine, job, listener: launches(engine, job, listener)),
        patch("arvbench.harness.check.against.built_sides", partial(built_sides, package=package)),
    ):
        return main(["check", *map(str, options)])


def alone(launches: Launches, words: Sequence[object], *, stopped_audit: bool = False) -> int:
    """Run a command that measures the running program alone, on a made-up machine; return its exit code."""
    with ExitStack() as stack:
        stack.enter_context(
            patch.object(SideEngine, "run", lambda engine, job, listener: launches(engine, job, listener))
        )
        stack.enter_context(patch("arvbench.harness.check.alone.hardware_of_device", lambda device: MACHINE))
        if stopped_audit:
            stack.enter_context(patch("arvbench.harness.check.baseline.audit", lambda *_, **__: _stop()))
        return main(list(map(str, words)))


def _stop() -> None:
    print("stopped", flush=True)
    time.sleep(600)


def _sped(outcome: Measured, factor: float) -> Measured:
    timings = tuple(
        timing.model_copy(update={"samples_ns": tuple(round(factor * ns) for ns in timing.samples_ns)})
        for timing in outcome.timings
    )
    return outcome.model_copy(update={"timings": timings})


if __name__ == "__main__":
    if sys.argv[1] == "alone":
        audit = sys.argv[2] == "audit"
        made_up = Launches(stop=None if audit else int(sys.argv[2]))
        sys.exit(alone(made_up, sys.argv[3:], stopped_audit=audit))
    where, _, width = sys.argv[2].partition(":")
    launches = Launches(noise=float(width or 0.005), stop=None if where == "-" else int(where))
    sys.exit(check(Path(sys.argv[1]), launches, sys.argv[3:]))
