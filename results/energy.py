"""Energy of a case in a record: raw windows, and what a user asks for.

Units    _j joules, _w watts, _ns nanoseconds, _c degrees Celsius, _s seconds
"""

from __future__ import annotations

from statistics import mean, median
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from arvbench.numbers import refuse_booleans
from arvbench.results.machine import Frozen

DISAGREEMENT = 0.1
"""Relative difference of counter and integrated power that is a finding."""


class EnergyRequest(Frozen):
    """Request for the energy of repeated calls (harness/measure/energy.py)."""

    windows: int = Field(default=5, ge=1, le=1_000)
    """Windows of work; before each stands an idle one of equal length."""
    window_s: float = Field(default=5, gt=0, le=3_600)
    """Least length of a window; it is longer where the counter is updated seldom."""
    step: int | None = Field(default=None, ge=0, le=100_000)
    """Step whose forward pass alone is repeated; None for whole calls."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_booleans(cls, value, info)


class EnergyWindow(Frozen):
    """One stretch of time between two readings of the counter."""

    kind: Literal["idle", "work"]
    duration_ns: int
    images: int
    """Images made in it; 0 when idle."""
    counter_j: float | None
    """Difference of the energy counter; None without one."""
    power_j: float | None
    """Power samples integrated over time; None without them."""
    begin_c: int | None = None
    end_c: int | None = None


class Energy(Frozen):
    """Windows of idle time and of repeated calls in turns; or no window, and the reason."""

    source: Literal["zeus", "nvml", "rapl"] | None
    """Counter that was read; None when there is none."""
    reason: str = ""
    """Reason why there are no numbers, or only power samples."""
    counts: str = ""
    """One sentence: the hardware whose energy is counted."""
    rule: str = ""
    """Rule by which a window is long enough."""
    step: int | None = None
    """Step whose forward pass was repeated alone; None for whole calls."""
    update_period_ns: int | None = None
    """Measured time between two changes of the counter."""
    windows: tuple[EnergyWindow, ...] = ()


class EnergyNumbers(NamedTuple):
    """Medians over the windows of work."""

    gross_j: float
    """Energy per image, idle power included."""
    net_j: float
    """Energy per image above that of an idle machine."""
    idle_w: float
    work_w: float
    by: Literal["counter", "power"]


def energy_numbers(energy: Energy, by: Literal["counter", "power"] = "counter") -> EnergyNumbers | None:
    """Compute the numbers from the counter or from the power samples; None where a window lacks them.

    An idle window stands before each window of work; what is subtracted is the mean of all idle windows.
    """
    joules = [window.counter_j if by == "counter" else window.power_j for window in energy.windows]
    pairs = [(window, j) for window, j in zip(energy.windows, joules, strict=True) if j is not None]
    idle = [j / window.duration_ns * 1e9 for window, j in pairs if window.kind == "idle"]
    work = [(window, j) for window, j in pairs if window.kind == "work"]
    if len(pairs) < len(energy.windows) or not idle or not work:
        return None
    idle_w = mean(idle)
    return EnergyNumbers(
        gross_j=median(j / window.images for window, j in work),
        net_j=median((j - idle_w * window.duration_ns / 1e9) / window.images for window, j in work),
        idle_w=idle_w,
        work_w=median(j / window.duration_ns * 1e9 for window, j in work),
        by=by,
    )


def disagreement(energy: Energy) -> float | None:
    """Return by how much integrated power differs from the counter, relative to it; None without both."""
    counter, power = energy_numbers(energy, "counter"), energy_numbers(energy, "power")
    return None if counter is None or power is None else power.gross_j / counter.gross_j - 1
