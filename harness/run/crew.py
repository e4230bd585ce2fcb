"""Jobs side by side: a thread waits for each worker, and one queue brings all that they say to the runner's thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from types import TracebackType

from arvbench.harness.jobs import Event, Job, Part, Result
from arvbench.harness.run.engines.engine import Engine
from arvbench.results.schema import CaseConfig


def cores_taken(case: CaseConfig, cores: int, devices: int = 1) -> int:
    """Return how many of `cores` the second part of a case takes; a GPU, which serves one case at a time, its share."""
    if case.device.partition(":")[0] != "cpu":
        return max(1, cores // devices)
    return min(cores, max(case.threads or cores, case.quality.workers if case.quality else 1))


def room_on_machine(job: Job, others: Sequence[Job], cores: int, devices: int = 1) -> bool:
    """Return whether a machine with `cores` and `devices` has room for a job beside others; a timed one is alone."""
    if any(one.part is not Part.QUALITY for one in (job, *others)):
        return False
    if job.case.device != "cpu" and sum(other.case.device != "cpu" for other in others) >= devices:
        return False
    return sum(cores_taken(one.case, cores, devices) for one in (job, *others)) <= cores


class _StoppedError(Exception):
    """Ends a job whose result nobody waits for any more."""


class Crew:
    """Runs jobs on an engine, several at a time, inside a `with` block; when it ends, none runs any more."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._said: SimpleQueue[tuple[str, Event | Result | BaseException]] = SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        """Record id -> thread of a job whose result was not handed out yet."""
        self._stopping = threading.Event()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        if self._threads:
            self._engine.close()
        for thread in self._threads.values():
            thread.join()

    def start(self, job: Job) -> None:
        """Begin a job."""
        # A daemon: Ctrl-C, pressed again, need not wait for an engine that does not end its jobs.
        thread = threading.Thread(target=self._run, args=(job,), name=f"job {job.record_id}", daemon=True)
        self._threads[job.record_id] = thread
        thread.start()

    def hear(self) -> tuple[str, Event | Result]:
        """Wait for the next event or result of any job, and return it with its record id. Raises what a job raised."""
        record_id, said = self._said.get()
        if not isinstance(said, Event):
            self._threads.pop(record_id).join()
        if isinstance(said, BaseException):
            raise said
        return record_id, said

    def _run(self, job: Job) -> None:
        def tell(event: Event) -> None:
            if self._stopping.is_set():
                raise _StoppedError
            self._said.put((job.record_id, event))

        said: Result | BaseException
        try:
            said = self._engine.run(job, tell)
        except BaseException as error:  # it belongs to the runner's thread, KeyboardInterrupt included
            said = error
        self._said.put((job.record_id, said))
