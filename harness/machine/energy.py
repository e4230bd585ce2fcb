"""Meters of energy: Zeus or NVML for a GPU, RAPL for a CPU.

A meter is refused with a reason where the machine has none. A counter that stands still or goes backwards gives no
number.

Units    _j joules, _w watts, _c degrees Celsius, _s seconds
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from arvbench.harness.machine.nvml import gpu_uuid, open_gpu

POWERCAP = Path("/sys/class/powercap")
MOST_W = 5_000
"""Power that no processor takes: a wrap-around that implies more is a counter that went backwards."""


class NoEnergy(Exception):
    """Energy cannot be measured; the message is the reason, on one line."""


class EnergyMeter(Protocol):
    """Counts energy between `begin` and `end`. Every method may raise NoEnergy."""

    source: Literal["zeus", "nvml", "rapl"]
    counts: str

    def begin(self) -> None: ...

    def end(self) -> float | None:
        """Return the joules since `begin`; None when there are power samples alone."""
        ...

    def counter_j(self) -> float | None:
        """Return the state of the counter, to find its update period; None for one that cannot be read."""
        ...

    def power_w(self) -> float | None: ...
    def temperature_c(self) -> int | None: ...


class _Domain:
    """One RAPL domain, whose counter starts again at 0 beyond its range."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._range_uj = _read_uj(folder / "max_energy_range_uj", missing=0)
        self._last_uj, self._last_s, self.total_uj = _read_uj(folder / "energy_uj"), 0.0, 0

    def advance(self, now_s: float) -> None:
        """Add what the counter counted since the last reading."""
        now_uj = _read_uj(self._folder / "energy_uj")
        grown, elapsed_s = now_uj - self._last_uj, now_s - self._last_s
        if grown < 0:
            wrapped = grown + self._range_uj
            if not 0 <= wrapped <= MOST_W * elapsed_s * 1e6:
                raise NoEnergy(f"the counter {self._folder.name} went backwards")
            grown = wrapped
        self._last_uj, self._last_s = now_uj, now_s
        self.total_uj += grown

    def start(self, now_s: float) -> None:
        self._last_uj, self._last_s = _read_uj(self._folder / "energy_uj"), now_s


class RaplMeter:
    """Energy counters of all processor packages; cores and graphics within them are not counted again."""

    source: Literal["zeus", "nvml", "rapl"] = "rapl"

    def __init__(self, root: Path = POWERCAP, clock_s: Callable[[], float] = time.monotonic) -> None:
        packages = [folder for folder in sorted(root.glob("*-rapl:*")) if _is_package(folder)]
        if not packages:
            raise NoEnergy(f"{root} has no RAPL counter of a processor package")
        self._clock_s, self._domains = clock_s, [_Domain(folder) for folder in packages]
        self._begun_uj = 0
        for domain in self._domains:
            domain.start(clock_s())
        self.counts = f"RAPL: all processes on {len(packages)} processor package(s), without memory modules"

    def begin(self) -> None:
        self._begun_uj = self._total_uj()

    def end(self) -> float:
        return (self._total_uj() - self._begun_uj) / 1e6

    def counter_j(self) -> float:
        return self._total_uj() / 1e6

    def power_w(self) -> None:
        self._total_uj()  # a window may be longer than the counter's range

    def temperature_c(self) -> None:
        return None

    def _total_uj(self) -> int:
        for domain in self._domains:
            domain.advance(self._clock_s())
        return sum(domain.total_uj for domain in self._domains)


class NvmlMeter:
    """Energy counter and power of one whole GPU."""

    source: Literal["zeus", "nvml", "rapl"] = "nvml"
    counts = "NVML: the whole GPU board, all processes on it, without the host"

    def __init__(self, handle: Any) -> None:
        """`handle` comes from `open_gpu`. Raises NoEnergy when the GPU has neither counter nor power."""
        if handle is None:
            raise NoEnergy("NVML does not know this GPU (a MIG slice has no counter of its own)")
        self._handle, self._lacks_counter = handle, False
        self._begun_j: float | None = None
        try:
            self.counter_j()
        except NoEnergy as no_counter:
            self._lacks_counter = True
            try:
                self.power_w()
            except NoEnergy:
                raise no_counter from None

    def begin(self) -> None:
        self._begun_j = self.counter_j()

    def end(self) -> float | None:
        now_j = self.counter_j()
        if now_j is None or self._begun_j is None:
            return None
        if now_j < self._begun_j:
            raise NoEnergy("the GPU's energy counter went backwards")
        return now_j - self._begun_j

    def counter_j(self) -> float | None:
        if self._lacks_counter:
            return None
        return float(_ask("nvmlDeviceGetTotalEnergyConsumption", self._handle)) / 1e3

    def power_w(self) -> float | None:
        return float(_ask("nvmlDeviceGetPowerUsage", self._handle)) / 1e3

    def temperature_c(self) -> int | None:
        try:
            return int(_ask("nvmlDeviceGetTemperature", self._handle, 0))  # 0: NVML_TEMPERATURE_GPU
        except NoEnergy:
            return None


class ZeusMeter(NvmlMeter):
    """Windows of Zeus (`zeus.monitor.ZeusMonitor`), with the power samples of NVML."""

    source: Literal["zeus", "nvml", "rapl"] = "zeus"
    counts = "Zeus: the whole GPU board, all processes on it, without the host"

    def __init__(self, handle: Any, monitor: Any, index: int) -> None:
        """`monitor` is a ZeusMonitor of the one GPU `index`, as CUDA numbers them."""
        super().__init__(handle)
        self._monitor, self._index = monitor, index

    def begin(self) -> None:
        _of_zeus(lambda: self._monitor.begin_window("arvbench"))

    def end(self) -> float:
        window = _of_zeus(lambda: self._monitor.end_window("arvbench"))
        joules = float(window.gpu_energy[self._index])
        if joules < 0:
            raise NoEnergy("the energy of a window of Zeus is negative")
        return joules


def meter_for(device: torch.device) -> EnergyMeter:
    """Return the best meter of a device. Raises NoEnergy with the reason where it has none."""
    if device.type == "cpu":
        return RaplMeter()
    handle, index = open_gpu(gpu_uuid(device)), device.index or 0
    return gpu_meter(handle, index)


def gpu_meter(handle: Any, index: int) -> NvmlMeter:
    """Return Zeus's meter when it is installed, else NVML's."""
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError:
        return NvmlMeter(handle)
    monitor = _of_zeus(lambda: ZeusMonitor(gpu_indices=[index], cpu_indices=[]))
    return ZeusMeter(handle, monitor, index)


def _of_zeus(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # Zeus wraps errors of several drivers in classes of its own
        raise NoEnergy(f"Zeus: {_one_line(error)}") from error


def _ask(name: str, *arguments: Any) -> Any:
    """Call NVML. Raises NoEnergy with the driver's words: not supported, no permission, GPU lost."""
    import pynvml

    try:
        return getattr(pynvml, name)(*arguments)
    except pynvml.NVMLError as error:
        raise NoEnergy(f"NVML: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_package(folder: Path) -> bool:
    """Return whether a domain is a processor package; "intel-rapl-mmio" counts the same ones again."""
    try:
        name = (folder / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith("package") and "mmio" not in folder.name


def _read_uj(path: Path, *, missing: int | None = None) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise NoEnergy(f"{path} is missing") from error
    except OSError as error:
        raise NoEnergy(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise NoEnergy(f"{path} holds no number") from error
