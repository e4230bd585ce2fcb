"""Forecast of a case that was not measured: memory of all tensors, and time of one sampling call.

The time has a lower bound: the plan's FLOPs and bytes over the ceilings of this machine, measured now
(results.roofline). Calls take a multiple of it, which earlier records know: measured time over the floor by their own
ceilings. The median multiple makes a prediction of the bound; without such records there is none.

Units    _ns nanoseconds, _bytes bytes
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log

import torch

from arvbench.adapters.loading import usable_device
from arvbench.adapters.schedule import Schedule
from arvbench.errors import HostError, UserError
from arvbench.harness.machine.installed import cpu_name
from arvbench.harness.machine.limits import set_threads
from arvbench.harness.measure.ceilings import measure_ceilings
from arvbench.harness.measure.footprint import Footprint, planned_call, predict
from arvbench.results.roofline import Floor, Machine, Piece, floor_of, measured_machine, scope_works, total
from arvbench.results.schema import CaseConfig, Measured, Record
from arvbench.results.statistics import find_timing, nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiple:
    """Multiple of its floor that a call takes, by records."""

    times: float
    records: int
    model: str
    """Whose records they are; "" for those of other models, where the model has none."""
    batch: int
    """Batch of the records: that of the case, or the nearest one by ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Memory and time of one sampling call."""

    footprint: Footprint | None
    memory_note: str
    """Reason why the memory is unknown."""
    least_ns: float | None
    """Lower bound of the time of a call, scope images."""
    time_note: str
    """Reason why the lower bound is unknown."""
    multiple: Multiple | None
    """None without records that know it."""

    @property
    def predicted_ns(self) -> float | None:
        """Time of a call by the lower bound and its multiple."""
        return self.least_ns * self.multiple.times if self.least_ns is not None and self.multiple else None


MachineOf = Callable[[CaseConfig], Machine]


def forecast(case: CaseConfig, records: Sequence[Record], machine_of: MachineOf | None = None) -> Forecast:
    """Forecast one call of a case. `machine_of` gives the ceilings in place of a measurement of this machine."""
    footprint, least_ns, memory_note, time_note = None, None, "", ""
    try:
        footprint = predict(case)
    except UserError as error:
        memory_note = str(error)
    try:
        floor = least_call(case, (machine_of or machine_for)(case))
        least_ns = None if floor is None else floor.ns
        time_note = "" if floor else f"this machine has no ceiling for {case.dtype}"
    except (UserError, HostError) as error:
        time_note = str(error)
    return Forecast(
        footprint=footprint,
        memory_note=memory_note,
        least_ns=least_ns,
        time_note=time_note,
        multiple=measured_multiple(case, records),
    )


def least_call(case: CaseConfig, machine: Machine) -> Floor | None:
    """Return the floor of one call; None where the machine has no ceiling for its data type."""
    _, _, schedule = planned_call(case)
    return total(floor_of(piece, machine) for piece in pieces(schedule, case.dtype))


def pieces(schedule: Schedule, dtype: str) -> list[Piece]:
    """Return the work of every step and, last, of the decode."""
    steps = [
        Piece(
            flops=step.flops,
            bytes_moved=step.bytes_moved,
            dtype=dtype,
            fp32_flops=step.fp32_flops,
            launches=step.launches,
        )
        for step in schedule
    ]
    decode_dtype = schedule.decode_dtype or dtype
    return [*steps, Piece(flops=schedule.decode_flops, bytes_moved=schedule.decode_bytes, dtype=decode_dtype)]


def machine_for(case: CaseConfig) -> Machine:
    """Measure the ceilings of the case's device now, once for all cases of its device, dtype and threads.

    Raises HostError where there is no such device, or no room for the buffers.
    """
    return _measured(case.device, case.dtype, case.threads)


@lru_cache(maxsize=32)
def _measured(device: str, dtype: str, threads: int | None) -> Machine:
    found = usable_device(device)
    set_threads(threads)
    ceilings = measure_ceilings(found, (getattr(torch, dtype), torch.float32))
    if ceilings is None:
        raise HostError("there is no room for the buffers of which copies are timed (64 MiB)")
    name = cpu_name() if found.type == "cpu" else torch.cuda.get_device_name(found)
    return measured_machine(name, ceilings)


def measured_multiple(case: CaseConfig, records: Sequence[Record]) -> Multiple | None:
    """Return the median multiple of records of the case's kind: its model's, else all, at the nearest batch.

    Of one kind are cases of one device, dtype, backend and number of threads. A small batch is further from its floor
    than a large one, so records of several batches are never mixed.
    """
    known = [
        (record.case, times)
        for record in records
        if _kind(record.case) == _kind(case)
        and isinstance(record.outcome, Measured)
        and (times := _multiple(record, record.outcome))
    ]
    own = [pair for pair in known if pair[0].model == case.model]
    if not known:
        return None
    batch = min(
        (measured.batch for measured, _ in own or known), key=lambda batch: (abs(log(batch / case.batch)), batch)
    )
    chosen = [times for measured, times in own or known if measured.batch == batch]
    model = case.model if own else ""
    return Multiple(times=statistics.median(chosen), records=len(chosen), model=model, batch=batch)


def _kind(case: CaseConfig) -> tuple[str, str, str, int | None]:
    return case.device, case.dtype, case.backend, case.threads


def _multiple(record: Record, outcome: Measured) -> float | None:
    work, timing = scope_works(record, outcome).get("images"), find_timing(outcome, "images")
    return nanoseconds(timing).value / work.floor.ns if work and timing else None
