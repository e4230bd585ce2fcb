"""State of one GPU as the driver tells it: clocks, temperature, power, and what holds it back.

Units    _mhz megahertz, _c degrees Celsius, _w watts, _bytes bytes
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from arvbench.errors import HostError, UserError
from arvbench.results.schema import Gpu

T = TypeVar("T")

_THROTTLE_BITS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}
"""nvmlClocksThrottleReasons, from nvml.h."""


class GpuProbe(Protocol):
    """Reads one GPU."""

    def read(self) -> Gpu: ...


class NvmlProbe:
    """The GPU behind a torch device, found by its UUID (torch and NVML number GPUs differently)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def read(self) -> Gpu:
        """What torch knows, and what NVML adds; fields that the driver does not tell are None."""
        properties = torch.cuda.get_device_properties(self._device)
        return Gpu(
            name=properties.name,
            memory_bytes=properties.total_memory,
            compute_capability=f"{properties.major}.{properties.minor}",
            **_driver_state(f"GPU-{getattr(properties, 'uuid', '')}"),
        )


class ReplayGpuProbe:
    """Plays readings back from a file (a JSON list of Gpu), so that what uses them is tested without a GPU."""

    def __init__(self, recording: Path) -> None:
        self._readings = [Gpu.model_validate(reading) for reading in json.loads(recording.read_text())]

    def read(self) -> Gpu:
        if not self._readings:
            raise UserError("the recording of GPU readings has ended")
        return self._readings.pop(0)


def probe_gpu(device: torch.device) -> GpuProbe | None:
    """The probe of a CUDA device; None for the CPU."""
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available():
        raise HostError("CUDA was asked for, but torch finds no usable GPU here; see `arvbench doctor`")
    return NvmlProbe(device)


def throttle_names(bits: int) -> tuple[str, ...]:
    """Names of the reasons in NVML's bit mask."""
    return tuple(name for bit, name in _THROTTLE_BITS.items() if bits & bit)


def _driver_state(uuid: str) -> dict[str, Any]:
    """Fields of Gpu that only NVML knows."""
    import pynvml

    unknown: dict[str, Any] = dict.fromkeys(
        ("driver", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w"), None
    ) | {"throttle_reasons": ()}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return unknown
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        # A MIG slice has a UUID of another kind; its GPU's clocks are not ours to report.
        return unknown
    power_mw = _ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return {
        "driver": _ask(lambda: str(pynvml.nvmlSystemGetDriverVersion())),
        "sm_clock_mhz": _ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        "memory_clock_mhz": _ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        "temperature_c": _ask(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        "power_w": None if power_mw is None else power_mw / 1000,
        "throttle_reasons": throttle_names(_ask(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0),
    }


def _ask(question: Callable[[], T]) -> T | None:
    """The driver's answer, or None where it has none."""
    import pynvml

    try:
        return question()
    except pynvml.NVMLError:
        return None
