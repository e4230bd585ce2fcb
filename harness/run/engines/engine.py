"""The seam between the runner and the machine on which a case is measured."""

from __future__ import annotations

from typing import Protocol

from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.results.schema import Environment


class Engine(Protocol):
    """Runs jobs in separate processes, one at a time.

    The runner knows the machine only through this seam, so an engine may measure on another one.
    """

    def environment(self, device: str) -> Environment:
        """Describe the machine on which a case on `device` ("cpu", "cuda", "cuda:N") would run.

        The description identifies recorded cases, which are then not measured again, and goes into the record of a
        worker that died before describing its machine. The runner calls this once or twice per case, so cache it.
        Raises HostError when the machine has no such device.
        """
        ...

    def run(self, job: Job, listener: EventListener) -> Result:
        """Measure one case. Every end of the worker becomes the outcome of the result.

        KeyboardInterrupt passes through, after the worker has ended.
        """
        ...

    def close(self) -> None:
        """End what the engine keeps between jobs; a later job starts it anew. `run_suite` calls this at its end."""
        ...
