"""Energy of repeated calls, on a fake machine with a clock that the test sets."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from arvbench.adapters.loading import load_sampler
from arvbench.harness.jobs import Job
from arvbench.harness.machine.energy import NoEnergy
from arvbench.harness.measure.calls import CaseCalls
from arvbench.harness.measure.energy import measure_energy
from arvbench.harness.measure.energy_calls import energy_of_case
from arvbench.results.energy import disagreement, energy_numbers
from arvbench.results.schema import CaseConfig, EnergyRequest

IDLE_W, WORK_W = 50.0, 200.0


class Machine:
    """Clock and meter in one: 50 W at rest, 200 W at work, a counter that is updated every `period_s`."""

    source, counts = "nvml", "a made-up board"

    def __init__(self, period_s: float = 0.1, power_scale: float = 1.0) -> None:
        self.time_s, self.joules, self.watts = 0.0, 0.0, IDLE_W
        self.period_s, self.power_scale, self.has_counter = period_s, power_scale, True
        self.fails_after_s, self.hot_until_s, self.begun = float("inf"), 0.0, 0.0
        self.calls, self.shown = 0, 0.0
        self.sampled = lambda: None

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float, watts: float = IDLE_W) -> None:
        before, self.watts = self.time_s, watts
        self.sampled()
        self.time_s += seconds
        self.joules += watts * seconds
        self.sampled()
        if int(self.time_s / self.period_s + 1e-9) > int(before / self.period_s + 1e-9):
            self.shown = self.joules

    @contextmanager
    def beside(self, sample):
        self.sampled = sample
        yield
        self.sampled = lambda: None

    def work(self) -> int:
        self.calls += 1
        self.sleep(0.5, WORK_W)
        return 4

    def counter_j(self) -> float | None:
        if self.time_s > self.fails_after_s:
            raise NoEnergy("NVML: GPU is lost")
        return self.shown if self.has_counter else None

    def begin(self) -> None:
        self.begun = self.counter_j()

    def end(self) -> float | None:
        now = self.counter_j()
        return None if now is None else now - self.begun

    def power_w(self) -> float:
        if self.time_s > self.fails_after_s:
            raise NoEnergy("NVML: GPU is lost")
        return self.watts * self.power_scale

    def temperature_c(self) -> int:
        return 30 if self.time_s >= self.hot_until_s else 80


def measure(machine: Machine, **request):
    return measure_energy(lambda: machine, EnergyRequest(**request), machine.work, machine)


def test_net_and_gross_energy_of_an_image():
    energy = measure(Machine(), windows=3, window_s=10)
    assert [window.kind for window in energy.windows] == ["idle", "work"] * 3
    numbers = energy_numbers(energy)
    # Half a second for four images.
    assert numbers.gross_j == pytest.approx(WORK_W / 8, rel=0.03)
    assert numbers.net_j == pytest.approx((WORK_W - IDLE_W) / 8, rel=0.03)
    assert (numbers.idle_w, numbers.work_w) == (pytest.approx(IDLE_W, rel=0.03), pytest.approx(WORK_W, rel=0.03))
    assert energy.update_period_ns == pytest.approx(1e8, rel=0.1)
    assert energy.source == "nvml" and energy.counts == "a made-up board" and not energy.reason


def test_a_slow_counter_makes_windows_longer():
    energy = measure(Machine(period_s=1.0), windows=1, window_s=5)
    assert all(window.duration_ns >= 50e9 for window in energy.windows) and "50 updates" in energy.rule


def test_power_that_disagrees_with_the_counter_is_seen():
    energy = measure(Machine(power_scale=1.75), windows=2, window_s=10)
    assert disagreement(energy) > 0.4
    assert energy_numbers(energy, "power").gross_j > energy_numbers(energy, "counter").gross_j


def test_without_a_counter_power_never_stands_in_for_it():
    machine = Machine()
    machine.has_counter = False
    energy = measure(machine, windows=1, window_s=5)
    assert energy_numbers(energy, "counter") is None and disagreement(energy) is None
    assert energy_numbers(energy, "power").gross_j == pytest.approx(WORK_W / 8, rel=0.2)
    assert "power samples alone" in energy.reason


def test_a_counter_that_stands_still_gives_no_number():
    machine = Machine(period_s=1e9)
    energy = measure(machine, windows=1, window_s=5)
    assert (energy.source, energy.windows, machine.calls) == (None, (), 0)
    assert energy.reason == "the energy counter stood still for 3 s"


def test_a_counter_that_stops_later_gives_no_number():
    machine = Machine()

    def work() -> int:
        machine.period_s = 1e9
        return machine.work()

    energy = measure_energy(lambda: machine, EnergyRequest(windows=2, window_s=5), work, machine)
    assert energy.windows == () and "stood still in a window" in energy.reason


def test_a_counter_that_goes_backwards_gives_no_number():
    machine = Machine()
    machine.counter_j = lambda: -machine.shown
    assert measure(machine).reason == "the energy counter went backwards"


@pytest.mark.parametrize("after_s", [0.0, 7.0, 12.0])
def test_a_gpu_that_is_lost_meanwhile_gives_no_number(after_s):
    machine = Machine()
    machine.fails_after_s = after_s
    energy = measure(machine, windows=3, window_s=5)
    assert (energy.source, energy.reason, energy.windows) == (None, "NVML: GPU is lost", ())


def test_work_waits_until_the_gpu_is_cool_but_not_for_ever():
    machine = Machine()
    machine.temperature_c = lambda: 30 if machine.time_s < 1 or machine.time_s > 20 else 80
    energy = measure(machine, windows=1, window_s=5)
    assert energy.windows[0].begin_c == 30
    machine = Machine()
    machine.temperature_c = lambda: 30 if machine.time_s < 0.6 else 80
    assert [window.begin_c for window in measure(machine, windows=2, window_s=5).windows] == [30, 80, 80, 80]
    assert machine.time_s > 60


def case_energy(machine: Machine, model: str, cache: str, **request):
    """Energy of a real sampler; its passes take no time, so each reading of the clock lets some pass."""
    now = machine.now_s

    def ticking() -> float:
        machine.sampled = lambda: None
        machine.sleep(0.25, WORK_W)
        return now()

    machine.now_s = ticking
    case = CaseConfig(model=model, weights="demo", batch=2, cache=cache, threads=1)
    sampler = load_sampler(model, weights="demo")
    settings = sampler.spec.settings
    calls = CaseCalls(Job(record_id="1", case=case, folder=".", case_id="a"), sampler, settings)
    asked = EnergyRequest(windows=1, window_s=1, **request)
    energy = energy_of_case(asked, sampler, calls, batch=2, open_meter=lambda: machine, clock=machine)
    calls.check(sampler.schedule(settings, batch=2, cache=cache))
    return energy


@pytest.mark.parametrize("model", ["demo/var", "demo/llamagen"])
def test_one_step_is_repeated_and_the_call_goes_on(model):
    energy = case_energy(Machine(), model, "static", step=2)
    work = energy.windows[1]
    assert energy.step == 2 and work.images > 2 and work.counter_j > 0


def test_a_step_that_cannot_be_repeated_says_why():
    assert "not written in place" in case_energy(Machine(), "demo/var", "grow", step=2).reason
    assert "no forward pass in step 99" in case_energy(Machine(), "demo/var", "static", step=99).reason


def test_whole_calls_are_repeated():
    energy = case_energy(Machine(), "demo/detailflow", "static")
    assert energy.step is None and energy.windows[1].images >= 2
