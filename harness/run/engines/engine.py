"""The seam between the runner and the machine on which a case is measured."""

from __future__ import annotations

from typing import Protocol

from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.results.schema import Environment


class Engine(Protocol):
    """Runs jobs in processes of their own, one at a time.

    All that the runner knows of the machine comes from here, so that an engine may measure on another one.
    """

    def environment(self, device: str) -> Environment:
        """Describe the machine on which a case on `device` ("cpu", "cuda", "cuda:N") would run.

        The description identifies recorded cases, which are then not measured again, and stands in the record of a
        worker that died before it could describe its machine. It is asked for once or twice per case, so make it once.
        Raises HostError when the machine has no such device.
        """
        ...

    def run(self, job: Job, listener: EventListener) -> Result:
        """Measure one case. Whatever happens to the worker becomes the outcome of the result.

        KeyboardInterrupt passes through, after the worker has ended.
        """
        ...
