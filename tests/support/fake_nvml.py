"""A driver that replays a series of readings; for tests without a GPU. Install it as the module `pynvml`.

In a process of its own, the calls that change the GPU are written to the file that FAKE_NVML_LOG names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

SERIES: list[dict[str, Any]] = []
"""Readings still to come: utilization, sm, memory, power_mw, temperature, throttle, pids. The last one stays."""


class NVMLError(Exception):
    """A call that the driver refuses."""


def replay(series: Sequence[dict[str, Any]]) -> None:
    SERIES[:] = [dict(reading) for reading in series]


def next_reading() -> None:
    if len(SERIES) > 1:
        SERIES.pop(0)


def _value(name: str) -> Any:
    if SERIES[0].get(name) is None:
        raise NVMLError(f"{name} is not supported")
    return SERIES[0][name]


def _log(text: str) -> None:
    with Path(os.environ["FAKE_NVML_LOG"]).open("a") as log:
        log.write(text + "\n")


def nvmlInit() -> None: ...


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    if uuid == "GPU-none":
        raise NVMLError("no such GPU")
    return uuid


def nvmlSystemGetDriverVersion() -> str:
    return "575.57.08"


def nvmlDeviceGetPowerUsage(handle: str) -> int:
    return int(_value("power_mw"))


def nvmlDeviceGetClockInfo(handle: str, kind: int) -> int:
    return int(_value("sm" if kind == NVML_CLOCK_SM else "memory"))


def nvmlDeviceGetMaxClockInfo(handle: str, kind: int) -> int:
    return 2000


def nvmlDeviceGetTemperature(handle: str, kind: int) -> int:
    return int(_value("temperature"))


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: str) -> int:
    return int(_value("throttle"))


def nvmlDeviceGetUtilizationRates(handle: str) -> SimpleNamespace:
    return SimpleNamespace(gpu=_value("utilization"))


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[SimpleNamespace]:
    pids = [SimpleNamespace(pid=pid) for pid in _value("pids")]
    next_reading()  # the last query of a sample
    return pids


def nvmlDeviceGetDefaultApplicationsClock(handle: str, kind: int) -> int:
    if os.environ.get("FAKE_NVML_NO_DEFAULT"):
        raise NVMLError("not supported")
    return 1755


def nvmlDeviceSetGpuLockedClocks(handle: str, low: int, high: int) -> None:
    if os.environ.get("FAKE_NVML_DENIED"):
        raise NVMLError("insufficient permissions")
    _log(f"lock {handle} {low} {high}")


def nvmlDeviceResetGpuLockedClocks(handle: str) -> None:
    _log(f"reset {handle}")
