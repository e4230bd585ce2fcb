"""Telemetry of a job: from the events of its worker to a field of its record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from arvbench.harness.jobs import Event, EventListener, Job, Result
from arvbench.harness.machine.clock_lock import Locked, locked_clocks
from arvbench.harness.machine.telemetry import GpuReader, Watch
from arvbench.results.schema import Measured

_TIMED_PHASES = ("warm-up", "timing")
"""Phases that are sampled; the first event of warm-up comes after its first call."""


class WatchedJob:
    """A job whose machine is sampled while its calls are timed."""

    def __init__(self, watch: Watch, clocks_locked: Locked) -> None:
        self._watch, self._clocks_locked = watch, clocks_locked

    def listener(self, inner: EventListener) -> EventListener:
        """Return a listener that follows the phases, and passes every event on."""

        def listen(event: Event) -> None:
            if event.pid is not None:
                self._watch.is_worker(event.pid)
            self._watch.switch(on=event.phase in _TIMED_PHASES)
            inner(event)

        return listen

    def add_to(self, result: Result) -> Result:
        """Return the result with the telemetry, where this job took times."""
        telemetry = self._watch.summary(self._clocks_locked)
        if telemetry is None or not isinstance(result.outcome, Measured):
            return result
        outcome = result.outcome.model_copy(update={"telemetry": telemetry})
        return result.model_copy(update={"outcome": outcome})


@contextlib.contextmanager
def watching(job: Job) -> Iterator[WatchedJob]:
    """Sample the machine while `job` runs, its GPU too, and hold the GPU's clocks where the job asks for it."""
    uuid, gpu = _gpu_of(job)
    with locked_clocks(uuid if job.lock_clocks else None) as locked, Watch(gpu) as watch:
        yield WatchedJob(watch, locked)


def _gpu_of(job: Job) -> tuple[str | None, GpuReader | None]:
    """Return the driver's name and the reader of a job's GPU; (None, None) on the CPU, or where NVML has none."""
    if job.case.device.partition(":")[0] != "cuda":
        return None, None
    # torch, which the engine has imported by now to describe the machine.
    import torch

    from arvbench.harness.machine.nvml import GpuSampler, gpu_uuid, open_gpu

    if not torch.cuda.is_available():
        return None, None
    uuid = gpu_uuid(torch.device(job.case.device))
    handle = open_gpu(uuid)
    return (None, None) if handle is None else (uuid, GpuSampler(handle))
