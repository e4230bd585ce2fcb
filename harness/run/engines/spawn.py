"""One fresh worker process per case on this machine.

Units    _s seconds
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

from pydantic import ValidationError

from arvbench.errors import HostError
from arvbench.files import scratch_folder
from arvbench.harness.jobs import Event, EventListener, Finished, Job, Part, Result, result_path
from arvbench.harness.machine.processes import Python, end_group, running, this_python
from arvbench.harness.run.crew import room_on_machine
from arvbench.harness.run.engines.devices import Devices
from arvbench.harness.run.engines.post_mortem import explain_death, is_lost, oom_kills
from arvbench.harness.run.engines.watching import watching
from arvbench.results.schema import Environment, Failed, Status

_MODULE = "arvbench.harness.run.worker"
_KEPT_OUTPUT = 8000
"""Characters of a worker's output to keep when it fails."""
_GRACE_S = 30.0
"""Time for a worker to exit after its last event, inside its timeout."""


class Worker(Protocol):
    """A running worker, in the terms of `subprocess.Popen`."""

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None as long as it is not known to have ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises subprocess.TimeoutExpired."""
        ...


class SpawnEngine:
    """Starts `python -m arvbench.harness.run.worker` for every job."""

    python: Python | None = None
    """Interpreter and package of the workers; None for our own."""

    def __init__(self, *, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        """Run at most `workers` untimed jobs at once, None as many as the cores allow, and one on each of `devices`."""
        self._groups: set[int] = set()
        """Process groups of the fresh workers that run."""
        self._workers, self._devices = workers, Devices(devices)
        self._devices.show_to_us()

    def environment(self, device: str) -> Environment:
        environment = _this_machine(device)
        if environment.gpu is not None:
            self._devices.check(_gpus())
        return environment

    def room(self, job: Job, others: Sequence[Job]) -> bool:
        if self._workers is not None and len(others) >= self._workers:
            return False
        return room_on_machine(job, others, self.environment(job.case.device).cores, self._devices.count)

    def run(self, job: Job, listener: EventListener) -> Result:
        deadline = time.monotonic() + job.case.timeout_s - job.spent_s
        kills_before = oom_kills()
        # In the run folder, not in the scratch folder: the next run finds it when this process is killed now.
        finished = result_path(job.folder, job.record_id)
        with _scratch(job.folder) as scratch, watching(job) as watched:
            if job.part is not Part.QUALITY:  # else its speed is there, until the whole result takes its place
                finished.unlink(missing_ok=True)
            log_path = scratch / "output.txt"
            job = job.model_copy(update={"compiler_cache": scratch / "compiler"})
            with self._started(job, finished, log_path, deadline) as (worker, events):
                in_time = _follow(events, watched.listener(listener), deadline) and _exited(worker, deadline)
            output = log_path.read_text(encoding="utf-8", errors="replace")[-_KEPT_OUTPUT:]
        if (result := _read(finished, job.part)) is not None:
            return watched.add_to(result)
        if not in_time:
            reason = f"not finished after timeout_s {job.case.timeout_s:g}; raise it, or make the case smaller"
            return Result(outcome=Failed(status=Status.TIMEOUT, reason=reason, detail=output))
        code = worker.wait()
        died = explain_death(code, output, kills_before, oom_kills())
        return Result(outcome=died, lost=is_lost(code, died))

    @contextlib.contextmanager
    def worker(self, job: Job, arguments: list[str], output: IO[Any], events: int, deadline: float) -> Iterator[Worker]:
        """Yield a worker of `job`, which writes its events to a file descriptor; on exit its whole group is gone."""
        arguments = [*arguments, "--events-fd", str(events)]
        with self._devices.one(job.case.device) as pinned:
            python = replace(self.python or this_python(), variables=pinned)
            fds = (events,)
            with running(_MODULE, job, output=output, arguments=arguments, pass_fds=fds, python=python) as process:
                self._groups.add(process.pid)
                try:
                    yield process
                finally:
                    self._groups.discard(process.pid)

    @contextlib.contextmanager
    def _started(self, job: Job, result_path: Path, log_path: Path, deadline: float) -> Iterator[tuple[Worker, int]]:
        """Yield a running worker and the read end of its events."""
        read_fd, write_fd = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, read_fd)
            try:
                log = stack.enter_context(log_path.open("wb"))
                started = self.worker(job, ["--result", str(result_path)], log, write_fd, deadline)
                worker = stack.enter_context(started)
            finally:
                os.close(write_fd)  # the worker holds the other end now: events end when it ends
            yield worker, read_fd

    def close(self) -> None:
        for group in tuple(self._groups):  # their threads take them out
            end_group(group)


@cache
def _this_machine(device: str) -> Environment:
    # Imports torch: listing the engines should not take seconds.
    from arvbench.adapters.loading import usable_device
    from arvbench.harness.machine.environment import read_environment

    return read_environment(usable_device(device))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def _scratch(run_folder: Path) -> Iterator[Path]:
    """Yield a temporary folder for a worker's output, with the run folder made. Raises HostError for a full disk."""
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder() as scratch:
            yield scratch
    except OSError as error:
        place = error.filename or tempfile.tempdir
        raise HostError(
            f"cannot start a worker: {place}: {error.strerror or error}; make room, or set TMPDIR"
        ) from error


def _follow(events: int, listener: EventListener, deadline: float) -> bool:
    """Pass events on until the worker closes its end; False when the deadline comes first."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            chunk = os.read(events, 65536)
            if not chunk:
                return True
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                listener(Event.model_validate_json(line))
    return False


def _exited(worker: Worker, deadline: float) -> bool:
    try:
        worker.wait(timeout=max(0.0, min(_GRACE_S, deadline - time.monotonic())))
    except subprocess.TimeoutExpired:
        return False
    return True


def _read(path: Path, part: Part) -> Result | None:
    """Return the worker's result for a part of its case; None when it wrote none."""
    try:
        finished = Finished.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return finished.result if finished.job.part is part else None
