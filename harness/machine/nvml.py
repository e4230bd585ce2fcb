"""State of one GPU from its driver: clocks, temperature, power, throttle reasons, processes.

Units    _mhz megahertz, _c degrees Celsius, _w watts, _bytes bytes
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from arvbench.errors import HostError, UserError
from arvbench.results.machine import Gpu

T = TypeVar("T")

_THROTTLE_BITS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""nvmlClocksThrottleReasons, from nvml.h, without the three that do not throttle: 0x1 (idle), 0x2 (clocks set by an
application) and 0x100 (clocks set for the display).
"""


class GpuProbe(Protocol):
    """Reads one GPU."""

    def read(self) -> Gpu: ...


class NvmlProbe:
    """Reads the GPU of a torch device, found by its UUID (torch and NVML number GPUs differently).

    The driver is opened when the probe is made, so that `read` takes no longer than needed: clocks fall within
    milliseconds of the last work.
    """

    def __init__(self, device: torch.device) -> None:
        self._properties = torch.cuda.get_device_properties(device)
        self._handle = open_gpu(gpu_uuid(device))

    def read(self) -> Gpu:
        """Return torch's properties and NVML's readings; None for readings that the driver lacks."""
        return Gpu(
            name=self._properties.name,
            memory_bytes=self._properties.total_memory,
            compute_capability=f"{self._properties.major}.{self._properties.minor}",
            **_driver_state(self._handle),
        )


class ReplayGpuProbe:
    """Replays readings from a file (a JSON list of Gpu), so that their users are tested without a GPU."""

    def __init__(self, recording: Path) -> None:
        self._readings = [Gpu.model_validate(reading) for reading in json.loads(recording.read_text())]

    def read(self) -> Gpu:
        if not self._readings:
            raise UserError("the recording of GPU readings has ended")
        return self._readings.pop(0)


class GpuSample(NamedTuple):
    """One reading of a series; None is unknown."""

    utilization: int | None
    """Percent of the driver's last window in which a kernel ran."""
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    throttle_reasons: tuple[str, ...]
    pids: tuple[int, ...]
    """Processes with a context on the GPU, in the numbers of the host."""


class GpuSampler:
    """Reads a GPU again and again, without torch and without a context of its own on the GPU."""

    def __init__(self, handle: Any) -> None:
        """`handle` comes from `open_gpu`."""
        import pynvml

        self._handle = handle
        self.most_sm_mhz = _query(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM))

    def read(self) -> GpuSample:
        """Return the present state; takes less than a millisecond."""
        import pynvml

        state = _driver_state(self._handle)
        rates = _query(lambda: pynvml.nvmlDeviceGetUtilizationRates(self._handle))
        running = _query(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)) or []
        return GpuSample(
            utilization=None if rates is None else int(rates.gpu),
            sm_clock_mhz=state["sm_clock_mhz"],
            memory_clock_mhz=state["memory_clock_mhz"],
            power_w=state["power_w"],
            temperature_c=state["temperature_c"],
            throttle_reasons=state["throttle_reasons"],
            pids=tuple(int(process.pid) for process in running),
        )


def gpu_uuid(device: torch.device) -> str:
    """Return the driver's name of a CUDA device: torch and NVML number GPUs differently."""
    return f"GPU-{getattr(torch.cuda.get_device_properties(device), 'uuid', '')}"


def probe_gpu(device: torch.device) -> GpuProbe | None:
    """Return the probe of a CUDA device; None for the CPU. Raises HostError without a usable GPU."""
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available():
        raise HostError("CUDA was asked for, but torch finds no usable GPU here; see `arvbench doctor`")
    return NvmlProbe(device)


def throttle_names(bits: int) -> tuple[str, ...]:
    """Return the names of the reasons in NVML's bit mask."""
    return tuple(name for bit, name in _THROTTLE_BITS.items() if bits & bit)


def open_gpu(uuid: str) -> Any:
    """Return NVML's handle of a GPU; None without NVML and for a MIG slice.

    A slice has another kind of UUID, and shares the clocks of its GPU.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return None


def _driver_state(handle: Any) -> dict[str, Any]:
    """Return the fields of Gpu that only NVML knows."""
    import pynvml

    if handle is None:
        nothing = dict.fromkeys(("driver", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w"))
        return nothing | {"throttle_reasons": ()}
    power_mw = _query(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return {
        "driver": _query(lambda: str(pynvml.nvmlSystemGetDriverVersion())),
        "sm_clock_mhz": _query(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        "memory_clock_mhz": _query(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        "temperature_c": _query(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        "power_w": None if power_mw is None else power_mw / 1000,
        "throttle_reasons": throttle_names(
            _query(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
        ),
    }


def _query(call: Callable[[], T]) -> T | None:
    """Return the result of a call of NVML, or None where the driver does not support it."""
    import pynvml

    try:
        return call()
    except pynvml.NVMLError:
        return None
