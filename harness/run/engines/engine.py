"""The seam between the runner and where a case is measured."""

from __future__ import annotations

from typing import Protocol

from arvbench.harness.jobs import EventListener, Job, Result


class Engine(Protocol):
    """Runs jobs in processes of their own, one at a time."""

    def run(self, job: Job, listener: EventListener) -> Result:
        """Measure one case. Whatever happens to the worker becomes the outcome of the result.

        KeyboardInterrupt passes through, after the worker has ended.
        """
        ...
