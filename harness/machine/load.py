"""Load of the machine while something is timed: the CPU time that other processes took (Linux; None elsewhere).

/proc/stat counts the time of all processes in ticks of 10 ms, containers and neighbours included; other processes took
the part that this one did not use. `stolen` is the time for which the hypervisor ran another machine.

No count shows a neighbour on the other half of a core, or a lower clock. A fixed computation between the timed calls
does: it takes longer. It is the loop of the control probe (harness/measure/control.py).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from arvbench.harness.machine.system_files import lines_of
from arvbench.results.machine import HostLoad

STAT = Path("/proc/stat")
_SHORTEST_S = 0.2
"""Shortest window with a meaning: twenty ticks."""

_PROBE_RUNS = 3
"""Runs of one probe, of which the fastest counts: an interrupt is no change of speed."""
LOOP_TURNS = 20_000
"""Turns of the fixed computation, about 2 ms."""


def fixed_loop() -> int:
    """Compute the same number each time, in the interpreter alone."""
    state = 1
    for _ in range(LOOP_TURNS):
        state = state * 16807 % 2147483647
    return state


def _loop_ns() -> int:
    begin = time.perf_counter_ns()
    fixed_loop()
    return time.perf_counter_ns() - begin


class _Times(NamedTuple):
    """Seconds since the start of the machine (busy, stolen), of this process (own), and of the clock (wall)."""

    busy: float
    stolen: float
    own: float
    wall: float


class LoadMeter:
    """Measures the load since its construction."""

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._probes_ns: list[int] = []
        self._begin = self._times()

    def probe(self) -> None:
        """Run the fixed computation; it takes a few milliseconds."""
        self._probes_ns.append(min(_loop_ns() for _ in range(_PROBE_RUNS)))

    def read(self) -> HostLoad | None:
        """Return the load so far; None where the system does not count it, or after less than 0.2 s."""
        begin, end = self._begin, self._times()
        if begin is None or end is None or end.wall - begin.wall < _SHORTEST_S:
            return None
        seconds = end.wall - begin.wall
        others = (end.busy - begin.busy) - (end.own - begin.own)
        return HostLoad(
            cores=os.cpu_count() or 1,
            load_average=os.getloadavg()[0],
            other_cores=max(0.0, others) / seconds,
            stolen_cores=max(0.0, end.stolen - begin.stolen) / seconds,
            slowdown=max(self._probes_ns) / min(self._probes_ns) if self._probes_ns else None,
        )

    def _times(self) -> _Times | None:
        counted, own = busy_and_stolen_s(self._stat), os.times()
        if counted is None:
            return None
        busy, stolen = counted
        return _Times(
            busy=busy,
            stolen=stolen,
            own=own.user + own.system + own.children_user + own.children_system,
            wall=time.perf_counter(),
        )


def busy_and_stolen_s(stat: Path = STAT) -> tuple[float, float] | None:
    """Return the CPU seconds of all processes and of other machines since its start; None where not counted."""
    try:
        # cpu user nice system idle iowait irq softirq steal ...; guests are part of user and nice.
        total = lines_of(stat)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, total[1:9])
    except (IndexError, ValueError):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick
