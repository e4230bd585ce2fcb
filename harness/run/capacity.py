"""Search for the largest batch of a case: every tried batch in a process of its own, out of memory as a status.

A batch that does not fit may end its process, so the search runs none itself; and blocks that an earlier batch left
behind cannot make a later one fail.

Units    _s seconds, _bytes bytes
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from arvbench.files import scratch_folder
from arvbench.harness.jobs import Event, EventListener, Job, Result
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.results.capacity import Capacity, Probe
from arvbench.results.schema import Failed, Incorrect, Measured, Status
from arvbench.results.statistics import find_timing

_FEW_IMAGES = 2
"""Images of the drift of a lossy policy in all batches but the first: the record has that of the first."""


class Search(NamedTuple):
    """Batches in the order tried, and how the search ended."""

    probes: tuple[Probe, ...]
    ended: str


def search(attempt: Callable[[int], Probe], *, first: int, most: int) -> Search:
    """Double the batch from `first` until one does not fit, then halve the distance between the last two.

    At most `most` images. Any other failure than memory ends the search.
    """
    probes: list[Probe] = []
    fits, too_large, batch = 0, most + 1, first
    while fits + 1 < too_large:
        probes.append(probe := attempt(batch))
        if probe.status == "ok":
            fits = batch
        elif probe.status == "oom":
            too_large = batch
        else:
            return Search(tuple(probes), "stopped")
        met = any(probe.status == "oom" for probe in probes)
        batch = (fits + too_large) // 2 if met else min(2 * fits, most)
        if batch < first:  # the first does not fit: nobody asked for less
            break
    return Search(tuple(probes), "found" if too_large <= most else "most")


def measure_capacity(job: Job, listener: EventListener, engine: Engine | None = None) -> Result:
    """Return the result of the batch that the search begins with, and the search; a failure when that batch fails.

    `engine` runs the batches in place of one of this machine.
    """
    request, began, results = job.case.capacity, time.monotonic(), dict[int, Result]()
    assert request is not None
    with contextlib.closing(engine or LocalEngine()) as engine, scratch_folder() as folder:

        def attempt(batch: int) -> Probe:
            left_s = job.case.timeout_s - job.spent_s - (time.monotonic() - began)
            if left_s <= 0:
                return Probe(batch=batch, status="timeout", reason=f"timeout_s {job.case.timeout_s:g} was up")
            tried = _job(job, batch, left_s, folder)
            results[batch] = engine.run(tried, listener)
            probe = probe_of(batch, results[batch])
            listener(Event(phase="capacity", note=f"batch {batch}: {probe.status}"))
            return probe

        found = search(attempt, first=job.case.batch, most=request.most)
    if job.case.batch not in results:
        return Result(outcome=Failed(status=Status.TIMEOUT, reason=found.probes[0].reason))
    first = results[job.case.batch]
    if not isinstance(first.outcome, Measured):
        return first
    limit = job.case.memory_limit_bytes or (first.environment and _device_bytes(first))
    capacity = Capacity.model_validate({"limit_bytes": limit, "ended": found.ended, "probes": found.probes})
    return first.model_copy(update={"outcome": first.outcome.model_copy(update={"capacity": capacity})})


def _device_bytes(result: Result) -> int | None:
    gpu = result.environment.gpu if result.environment is not None else None
    return gpu.memory_bytes if gpu is not None else None


def _job(job: Job, batch: int, left_s: float, folder: Path) -> Job:
    """Return the job of one tried batch. All but the first skip what does not depend on the batch."""
    changes: dict[str, object] = {"batch": batch, "capacity": None, "timeout_s": left_s}
    if batch != job.case.batch:
        changes |= {"drift_images": _FEW_IMAGES, "trace_memory": False}
    fields = {"case": job.case.model_copy(update=changes), "spent_s": 0.0, "folder": folder}
    if batch != job.case.batch:
        fields |= {"record_id": f"{job.record_id}-{batch}", "control": False}
    return job.model_copy(update=fields)


def probe_of(batch: int, result: Result) -> Probe:
    """Return what the search keeps of a tried batch."""
    match result.outcome:
        case Measured() as outcome:
            memory, timing = outcome.memory, find_timing(outcome, "images")
            return Probe(
                batch=batch,
                status="ok",
                held_bytes=memory.peak_bytes if memory.source == "process-rss" else memory.reserved_bytes,
                cache_live_bytes=memory.cache_live_bytes,
                samples_ns=timing.samples_ns if timing is not None else (),
                allocation_retries=memory.allocation_retries,
            )
        case Incorrect():
            return Probe(batch=batch, status="incorrect", reason="the output differs from the judge's")
        case Failed(status=status, reason=reason):
            return Probe.model_validate({"batch": batch, "status": status.value, "reason": reason})
