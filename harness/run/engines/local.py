"""One worker process per case on this machine.

Units    _s seconds
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from arvbench.errors import HostError
from arvbench.files import scratch_folder
from arvbench.harness.jobs import Event, EventListener, Finished, Job, Result, result_path
from arvbench.harness.machine.processes import running
from arvbench.harness.run.engines.post_mortem import explain_death, oom_kills
from arvbench.results.schema import Environment, Failed, Status

_KEPT_OUTPUT = 8000
"""Characters of a worker's output to keep when it fails."""
_GRACE_S = 30.0
"""Time for a worker to exit after its last event, inside its timeout."""


class LocalEngine:
    """Starts `python -m arvbench.harness.run.worker` for every job."""

    def environment(self, device: str) -> Environment:
        return _this_machine(device)

    def run(self, job: Job, listener: EventListener) -> Result:
        deadline = time.monotonic() + job.case.timeout_s
        kills_before = oom_kills()
        # In the run folder, not in the scratch folder: the next run finds it when this process is killed now.
        finished = result_path(job.folder, job.record_id)
        with _scratch(job.folder) as scratch:
            finished.unlink(missing_ok=True)
            log_path = scratch / "output.txt"
            with _worker(job, finished, log_path) as (process, events):
                in_time = _follow(events, listener, deadline) and _exited(process, deadline)
            output = log_path.read_text(encoding="utf-8", errors="replace")[-_KEPT_OUTPUT:]
        if (result := _read(finished)) is not None:
            return result
        if not in_time:
            reason = f"not finished after timeout_s {job.case.timeout_s:g}; raise it, or make the case smaller"
            return Result(outcome=Failed(status=Status.TIMEOUT, reason=reason, detail=output))
        return Result(outcome=explain_death(process.returncode, output, kills_before, oom_kills()))


@cache
def _this_machine(device: str) -> Environment:
    # Imports torch: listing the engines should not take seconds.
    from arvbench.adapters.loading import usable_device
    from arvbench.harness.machine.environment import read_environment

    return read_environment(usable_device(device))


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


@contextlib.contextmanager
def _worker(job: Job, result_path: Path, log_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Yield a running worker and the read end of its events; on exit its whole group is gone, whatever happened."""
    read_fd, write_fd = os.pipe()
    arguments = ["--events-fd", str(write_fd), "--result", str(result_path)]
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, read_fd)
        try:
            log = stack.enter_context(log_path.open("wb"))
            child = running("arvbench.harness.run.worker", job, output=log, arguments=arguments, pass_fds=(write_fd,))
            process = stack.enter_context(child)
        finally:
            os.close(write_fd)  # the worker holds the other end now: events end when it ends
        yield process, read_fd


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


def _exited(process: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        process.wait(timeout=max(0.0, min(_GRACE_S, deadline - time.monotonic())))
    except subprocess.TimeoutExpired:
        return False
    return True


def _read(path: Path) -> Result | None:
    """Return the worker's result; None when it wrote none."""
    try:
        return Finished.model_validate_json(path.read_bytes()).result
    except (FileNotFoundError, ValidationError):
        return None
