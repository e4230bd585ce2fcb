"""The machine while a case is timed, as a series of samples taken by the process that started the case's.

A sample every 200 ms, in the phases whose times count. The GPU is read in this process (NVML), the processors from
/proc and /sys. A sample costs less than a millisecond (tests/bench/test_telemetry.py).

Units    _mhz megahertz, _c degrees Celsius, _w watts, _s seconds
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil

from arvbench.harness.machine.clock_lock import Locked
from arvbench.harness.machine.load import STAT, busy_and_stolen_s
from arvbench.harness.machine.system_files import lines_of
from arvbench.results.machine import CpuSeries, GpuSeries, Range, Telemetry

if TYPE_CHECKING:  # it imports torch, which a process that only starts others does without
    from arvbench.harness.machine.nvml import GpuSample

INTERVAL_S = 0.2
BUSY_PERCENT = 50
"""Utilisation from which on a GPU counts as busy."""
_READ_CLOCKS = 8
"""Processors whose clock is read: reading that of each of hundreds would cost more than the rest together."""
_CLOCK_EVERY = 5
"""Every fifth sample holds the processors' clock, for the same reason."""


class GpuReader(Protocol):
    """Reads a GPU again and again (`nvml.GpuSampler`)."""

    most_sm_mhz: int | None

    def read(self) -> GpuSample: ...


class Watch:
    """Samples the machine while it is switched on."""

    def __init__(
        self,
        gpu: GpuReader | None = None,
        *,
        clock_s: Callable[[], float] = lambda: os.times().elapsed,
        stat: Path = STAT,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`clock_s` and `stat` replace the wall clock and the system's counters of CPU time."""
        self._gpu, self._cpu = gpu, _CpuReader(clock_s, stat)
        self._others_before = set(gpu.read().pids) if gpu else set()
        """Processes on the GPU before the case's was started."""
        self._interval_s = interval_s
        self._on, self._stop = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._gpu_samples: list[GpuSample] = []
        self._cpu_samples: list[_CpuSample] = []
        self._worker: int | None = None
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._on.set()
        self._thread.join()

    def is_worker(self, pid: int) -> None:
        """Tell the process of the case, whose CPU time is not that of others."""
        self._worker = pid

    def switch(self, *, on: bool) -> None:
        """Begin or end a stretch that is sampled; its end is sampled too, so that a short one has a sample."""
        if on == self._on.is_set():
            return
        if on:
            with self._lock:
                self._cpu.begin(self._worker)
            self._on.set()
        else:
            self._on.clear()
            self.sample()

    def sample(self) -> None:
        """Take one sample."""
        with self._lock:
            if self._gpu is not None:
                self._gpu_samples.append(self._gpu.read())
            if (cpu := self._cpu.read(self._worker)) is not None:
                self._cpu_samples.append(cpu)

    def summary(self, clocks_locked: Locked = False) -> Telemetry | None:
        """Return the series in summary; None without a sample."""
        samples = max(len(self._gpu_samples), len(self._cpu_samples))
        if samples == 0:
            return None
        return Telemetry(
            interval_s=self._interval_s,
            samples=samples,
            clocks_locked=clocks_locked,
            cpu=_of_cpu(self._cpu_samples),
            gpu=self._of_gpu() if self._gpu_samples else None,
        )

    def _run(self) -> None:
        while True:
            self._on.wait()
            if self._stop.wait(self._interval_s):
                return
            if self._on.is_set():
                self.sample()

    def _of_gpu(self) -> GpuSeries:
        assert self._gpu is not None
        samples, most = self._gpu_samples, self._gpu.most_sm_mhz
        busy = [sample for sample in samples if (sample.utilization or 0) >= BUSY_PERCENT]
        sm_clock = _range(sample.sm_clock_mhz for sample in busy)
        reasons = Counter(reason for sample in busy for reason in sample.throttle_reasons)
        return GpuSeries(
            busy_samples=len(busy),
            utilization=_range(sample.utilization for sample in busy),
            sm_clock_mhz=sm_clock,
            memory_clock_mhz=_range(sample.memory_clock_mhz for sample in busy),
            sm_clock_ratio=sm_clock.mean / most if sm_clock and most else None,
            throttle_shares={reason: count / len(busy) for reason, count in sorted(reasons.items())},
            power_w=_range(sample.power_w for sample in samples),
            temperature_c=_range(sample.temperature_c for sample in samples),
            foreign_pids=self._foreign(),
        )

    def _foreign(self) -> tuple[int, ...]:
        """Return the processes on the GPU that are not the case's.

        In a container the driver's numbers may be other than ours. The case's process is then the only one that came
        after this watch had begun.
        """
        seen = {pid for sample in self._gpu_samples for pid in sample.pids}
        newcomers = seen - self._others_before
        own = {self._worker} if self._worker in seen else newcomers if len(newcomers) == 1 else set()
        return tuple(sorted(seen - own))


class _CpuSample:
    """Cores that were busy for others since the sample before, the load, and the clock."""

    def __init__(self, other_cores: float, stolen_cores: float, load_average: float, clock_mhz: float | None) -> None:
        self.other_cores, self.stolen_cores = other_cores, stolen_cores
        self.load_average, self.clock_mhz = load_average, clock_mhz


class _CpuReader:
    """Reads counters, and returns what they gained since the last time."""

    def __init__(self, clock_s: Callable[[], float], stat: Path) -> None:
        self._clock_s, self._stat, self._taken = clock_s, stat, 0
        self._before: tuple[float, float, float, float] | None = None

    def begin(self, worker: int | None) -> None:
        self._before = self._counters(worker)

    def read(self, worker: int | None) -> _CpuSample | None:
        """Return the sample since `begin` or the last one; None where the system does not count, or no time passed."""
        before, now = self._before, self._counters(worker)
        self._before = now
        if before is None or now is None or now[0] <= before[0]:
            return None
        mhz = clock_mhz() if self._taken % _CLOCK_EVERY == 0 else None
        self._taken += 1
        seconds, busy, stolen, own = (after - earlier for after, earlier in zip(now, before, strict=True))
        return _CpuSample(max(0.0, busy - own) / seconds, max(0.0, stolen) / seconds, os.getloadavg()[0], mhz)

    def _counters(self, worker: int | None) -> tuple[float, float, float, float] | None:
        """Seconds of the wall clock, of all processes, of other machines, of the case's process and this one."""
        counted = busy_and_stolen_s(self._stat)
        if counted is None:
            return None
        ours = os.times()
        return self._clock_s(), *counted, ours.user + ours.system + _cpu_seconds(worker)


def _cpu_seconds(pid: int | None) -> float:
    """Return the CPU time of a process and of its children that have ended; 0 when it has ended itself."""
    try:
        return 0.0 if pid is None else sum(psutil.Process(pid).cpu_times()[:4])
    except psutil.Error:
        return 0.0


def clock_mhz(system: Path = Path("/sys/devices/system/cpu"), proc: Path = Path("/proc")) -> float | None:
    """Return the mean clock of some processors now, from cpufreq or else from cpuinfo; None where neither tells."""
    files = (system / f"cpu{number}" / "cpufreq" / "scaling_cur_freq" for number in range(_READ_CLOCKS))
    khz = [int(line) for file in files for line in lines_of(file)[:1] if line.strip().isdigit()]
    if khz:
        return sum(khz) / len(khz) / 1000
    named = [line.partition(":")[2] for line in lines_of(proc / "cpuinfo") if line.startswith("cpu MHz")]
    try:
        mhz = [float(value) for value in named[:_READ_CLOCKS]]
    except ValueError:
        return None
    return sum(mhz) / len(mhz) if mhz else None


def _of_cpu(samples: Sequence[_CpuSample]) -> CpuSeries:
    return CpuSeries(
        clock_mhz=_range(sample.clock_mhz for sample in samples),
        load_average=_range(sample.load_average for sample in samples),
        other_cores=_range(sample.other_cores for sample in samples),
        stolen_cores=_range(sample.stolen_cores for sample in samples),
    )


def _range(values: Iterable[float | None]) -> Range | None:
    known = [value for value in values if value is not None]
    return Range(low=min(known), mean=sum(known) / len(known), high=max(known)) if known else None
