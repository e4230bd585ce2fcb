"""Energy of repeated calls: windows of work and idle windows in turns, read by a meter.

A window lasts `window_s`, and at least 50 updates of the counter: calls are repeated until it has passed. Before each
window of work the GPU cools down to the temperature at which it began, and an idle window is measured.

Units    _j joules, _w watts, _ns nanoseconds, _s seconds
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from arvbench.harness.machine.energy import EnergyMeter, NoEnergy
from arvbench.results.energy import Energy, EnergyWindow
from arvbench.results.schema import EnergyRequest

UPDATES = 50
"""Updates of the counter that a window has at least."""
SAMPLE_S = 0.1
"""Time between power samples; more frequent queries of a GPU return errors and zeros."""
POLL_S = 0.005
STILL_S = 3.0
"""A counter that does not change for so long stands still."""
_CHANGES = 5
COOL_C = 2
COOL_MOST_S = 60.0


class Clock:
    """Time as the measurement sees it; tests replace it."""

    def now_s(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def beside(self, sample: Callable[[], None]) -> Sampling:
        """Return a context that calls `sample` every SAMPLE_S."""
        return Sampling(sample)


class Sampling:
    """Thread that samples inside a `with` block, at its begin and at its end too."""

    def __init__(self, sample: Callable[[], None]) -> None:
        self._sample, self._stop = sample, threading.Event()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)

    def __enter__(self) -> None:
        self._sample()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._sample()


class _Power:
    """Power samples of one window, integrated by trapezoids. A failure is raised at the end, not in the thread."""

    def __init__(self, meter: EnergyMeter, clock: Clock) -> None:
        self._meter, self._clock = meter, clock
        self._samples: list[tuple[float, float]] = []
        self._failure: NoEnergy | None = None

    def sample(self) -> None:
        try:
            watts = self._meter.power_w()
        except NoEnergy as error:
            self._failure = self._failure or error
            return
        if watts is not None:
            self._samples.append((self._clock.now_s(), watts))

    def joules(self) -> float | None:
        """Return the integral; None for a meter without power. Raises NoEnergy for a sample that failed."""
        if self._failure is not None:
            raise self._failure
        pairs = zip(self._samples, self._samples[1:], strict=False)
        areas = [(end - begin) * (first + second) / 2 for (begin, first), (end, second) in pairs]
        return sum(areas) if areas else None


def measure_energy(
    open_meter: Callable[[], EnergyMeter], request: EnergyRequest, work: Callable[[], int], clock: Clock | None = None
) -> Energy:
    """Measure the energy of `work`, which makes one call, waits for it and returns its number of images.

    Returns an Energy without windows, and the reason, where it cannot be measured, also from the middle on: the
    windows before are not kept.
    """
    clock = clock or Clock()
    try:
        meter = open_meter()
        period_s = update_period_s(meter, clock)
        return _measured(meter, request, work, clock, period_s)
    except NoEnergy as error:
        return Energy(source=None, reason=str(error), step=request.step)


def update_period_s(meter: EnergyMeter, clock: Clock) -> float | None:
    """Return the mean time between changes of the counter; None without one. Raises NoEnergy when it stands still."""
    last = meter.counter_j()
    if last is None:
        return None
    changes: list[float] = []
    begin_s = clock.now_s()
    while len(changes) < _CHANGES:
        clock.sleep(POLL_S)
        now, now_s = meter.counter_j(), clock.now_s()
        if now is None or now < last:
            raise NoEnergy("the energy counter went backwards")
        if now > last:
            changes.append(now_s)
            last = now
        if now_s - (changes[-1] if changes else begin_s) > STILL_S:
            raise NoEnergy(f"the energy counter stood still for {STILL_S:g} s")
    return (changes[-1] - changes[0]) / (len(changes) - 1)


def _measured(
    meter: EnergyMeter, request: EnergyRequest, work: Callable[[], int], clock: Clock, period_s: float | None
) -> Energy:
    length_s = max(request.window_s, UPDATES * (period_s or 0))
    begin_c = meter.temperature_c()
    windows: list[EnergyWindow] = []
    for _ in range(request.windows):
        _cool(meter, clock, begin_c)
        windows.append(_window("idle", meter, clock, length_s, lambda: _rest(clock)))
        windows.append(_window("work", meter, clock, length_s, work))
    if all(window.counter_j is None and window.power_j is None for window in windows):
        raise NoEnergy("there is neither an energy counter nor a power sample")
    return Energy(
        source=meter.source,
        reason="" if period_s is not None else "no energy counter that can be read: power samples alone",
        counts=meter.counts,
        rule=f"repeat until {length_s:.3g} s have passed: the longer of {request.window_s:g} s and {UPDATES} updates",
        step=request.step,
        update_period_ns=None if period_s is None else round(period_s * 1e9),
        windows=tuple(windows),
    )


def _window(
    kind: Literal["idle", "work"], meter: EnergyMeter, clock: Clock, length_s: float, work: Callable[[], int]
) -> EnergyWindow:
    """Repeat `work` until the window is long enough."""
    power, images, begin_c = _Power(meter, clock), 0, meter.temperature_c()
    begin_s = clock.now_s()
    with clock.beside(power.sample):
        meter.begin()
        while clock.now_s() - begin_s < length_s:
            images += work()
        counter_j = meter.end()
        duration_s = clock.now_s() - begin_s
    if counter_j is not None and counter_j <= 0:
        raise NoEnergy(f"the energy counter stood still in a window of {duration_s:.3g} s")
    return EnergyWindow(
        kind=kind,
        duration_ns=round(duration_s * 1e9),
        images=images,
        counter_j=counter_j,
        power_j=power.joules(),
        begin_c=begin_c,
        end_c=meter.temperature_c(),
    )


def _rest(clock: Clock) -> int:
    clock.sleep(SAMPLE_S)
    return 0


def _cool(meter: EnergyMeter, clock: Clock, begin_c: int | None) -> None:
    """Wait until the temperature is near that of the begin, for a minute at most; the windows hold what it was."""
    begin_s = clock.now_s()
    while begin_c is not None and clock.now_s() - begin_s < COOL_MOST_S:
        now_c = meter.temperature_c()
        if now_c is None or now_c <= begin_c + COOL_C:
            return
        clock.sleep(SAMPLE_S)
