"""Two clocks behind one interface: the wall clock, and CUDA events on the current stream.

Units    _ns nanoseconds
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch

from arvbench.errors import ContractError

CLOCK_TOLERANCE = 0.1
"""Relative difference that CUDA events and the wall clock may have over a whole call."""
CLOCK_SLACK_NS = 2_000_000
"""Difference allowed on top: launches and synchronisation take this long on a busy host."""

ClockKind = Literal["wall", "cuda-event"]


class Clock(Protocol):
    """Marks moments; the time between two marks may be read after `settle`."""

    kind: ClockKind

    def mark(self) -> Any:
        """Mark this moment of the device's work, without waiting for it."""
        ...

    def settle(self) -> None:
        """Wait until the device has reached every mark."""
        ...

    def between_ns(self, begin: Any, end: Any) -> int:
        """Return the nanoseconds between two marks."""
        ...

    @property
    def wall(self) -> Clock:
        """Wall clock that this clock is checked against."""
        ...


class WallClock:
    """Clock of devices that have finished when a call returns (the CPU)."""

    kind: ClockKind = "wall"

    def mark(self) -> int:
        return time.perf_counter_ns()

    def settle(self) -> None:
        return None

    def between_ns(self, begin: int, end: int) -> int:
        return end - begin

    @property
    def wall(self) -> WallClock:
        return self


class CudaEventClock:
    """Events on the current stream: marks cost microseconds and do not stop the device."""

    kind: ClockKind = "cuda-event"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.wall = WallClock()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def settle(self) -> None:
        torch.cuda.synchronize(self._device)

    def between_ns(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> int:
        elapsed_ms: float = begin.elapsed_time(end)
        return round(elapsed_ms * 1e6)


def clock_for(device: torch.device) -> Clock:
    return CudaEventClock(device) if device.type == "cuda" else WallClock()


def scatter_ns(clock: Clock) -> int:
    """Return the scatter of a clock: the interquartile range of 40 intervals between two marks in a row."""
    marks = [clock.mark() for _ in range(41)]
    clock.settle()
    intervals = sorted(clock.between_ns(begin, end) for begin, end in pairwise(marks))
    return intervals[30] - intervals[10]


class ClocksDisagree(ContractError):
    """A call whose time differs between the device clock and the wall clock."""


def check_against_wall(device_ns: int, wall_ns: int) -> None:
    """Raise ClocksDisagree when a device clock and the synchronised wall clock disagree about one call.

    They disagree when work ran on a stream that the events did not see; that time must not be reported.
    """
    if abs(device_ns - wall_ns) > CLOCK_TOLERANCE * wall_ns + CLOCK_SLACK_NS:
        raise ClocksDisagree(
            f"the device clock says {device_ns / 1e6:.2f} ms and the wall clock {wall_ns / 1e6:.2f} ms for the same "
            "call: part of the work ran on another stream, so this time cannot be defended"
        )
