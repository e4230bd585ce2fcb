"""The seam between the runner and the machine on which a case is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.results.schema import Environment


class Engine(Protocol):
    """Runs jobs, each in a process of its own; several threads call `run` at once where a run has several at a time.

    The runner knows the machine only through this seam, so an engine may measure on another one.
    """

    def environment(self, device: str) -> Environment:
        """Describe the machine on which a case on `device` ("cpu", "cuda", "cuda:N") would run.

        The description identifies recorded cases, which are then not measured again, and goes into the record of a
        worker that died before describing its machine; its cores are what CPU cases share. The runner calls this a few
        times per case, so cache it. Raises HostError when the machine has no such device.
        """
        ...

    def room(self, job: Job, others: Sequence[Job]) -> bool:
        """Return whether `job` may begin while `others`, at least one, run.

        A timed job shares nothing that its times depend on. An engine without other jobs has room for any.
        """
        ...

    def run(self, job: Job, listener: EventListener) -> Result:
        """Measure one case, or the part of it that the job names. Every end of the worker becomes the outcome.

        KeyboardInterrupt passes through, and so does what `listener` raises, after the worker has ended.
        """
        ...

    def close(self) -> None:
        """End what the engine keeps between jobs, and the workers of jobs that other threads run just now.

        A later job starts anew. `run_suite` calls this at its end and at Ctrl-C.
        """
        ...
