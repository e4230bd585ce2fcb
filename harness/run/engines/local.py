"""Workers on this machine: those of CPU cases are forked from one warm process, the others start fresh.

Every case still has a process of its own, with its own group, limits and timeout. CUDA does not survive a fork.

Forks of one process share its memory layout. Whatever that does to speed, launches of one case would have in common,
and their interval would miss it: each round of launches has a warm process of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any

from arvbench.harness.jobs import Job, Part
from arvbench.harness.machine.forks import CAN_FORK, WarmProcess, start_warm
from arvbench.harness.run.engines.spawn import SpawnEngine, Worker

_WARM = "arvbench.harness.run.warm"


class LocalEngine(SpawnEngine):
    """Starts the warm process by `begin`, or with the first CPU case.

    Without one (another system, a failed start) all workers start fresh.
    """

    def __init__(self, *, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        super().__init__(workers=workers, devices=devices)
        self._warm: WarmProcess | None = None
        self._launch = 0
        """Number of the launches that the warm process is for."""
        self._starting = threading.Lock()

    def begin(self) -> None:
        """Start the warm process: it imports while the caller reads a suite. `close` ends it if no case needs it."""
        with self._starting:
            if self._warm is None and CAN_FORK:
                self._warm, self._launch = start_warm(_WARM), 1

    @contextlib.contextmanager
    def worker(self, job: Job, arguments: list[str], output: IO[Any], events: int, deadline: float) -> Iterator[Worker]:
        on_cpu = job.case.device.partition(":")[0] == "cpu"
        warm = self.warm_process(job, deadline) if on_cpu and CAN_FORK else None
        if warm is None:
            with super().worker(job, arguments, output, events, deadline) as fresh:
                yield fresh
        else:
            with warm.running(job, output=output, arguments=arguments, pass_fds=(events,)) as forked:
                yield forked

    def close(self) -> None:
        super().close()
        with self._starting:
            self._end_warm()

    def warm_process(self, job: Job, deadline: float) -> WarmProcess | None:
        """Return the warm process, started anew if it has died or was for other launches; quality takes that of any.

        None when it is not ready before the deadline.
        """
        with self._starting, contextlib.ExitStack() as unless_ready:
            unless_ready.callback(self._end_warm)
            other = self._launch != job.launch and job.part is not Part.QUALITY
            if self._warm is not None and (other or not self._warm.ready(deadline)):
                self._end_warm()
            if self._warm is None:
                self._warm, self._launch = start_warm(_WARM), job.launch
            if not self._warm.ready(deadline):
                return None
            unless_ready.pop_all()
            return self._warm

    def _end_warm(self) -> None:
        if self._warm is not None:
            self._warm.close()
        self._warm = None
