"""Telemetry: series of a recorded driver and of made-up counters, and what is said of them."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import fake_nvml
import pytest
from records import record

from arvbench.harness.jobs import Event, Job, Result
from arvbench.harness.machine.nvml import GpuSampler, open_gpu
from arvbench.harness.machine.telemetry import Watch, clock_mhz
from arvbench.harness.run.engines.watching import WatchedJob, watching
from arvbench.results.machine import Range
from arvbench.results.schema import CaseConfig, Failed, Measured, Status

IDLE = {"utilization": 3, "sm": 345, "memory": 2619, "power_mw": 70_000, "temperature": 30, "throttle": 1, "pids": ()}
BUSY = IDLE | {"utilization": 98, "sm": 1900, "power_mw": 600_000, "temperature": 60, "throttle": 0, "pids": (7,)}
HOT = BUSY | {"sm": 1500, "temperature": 80, "throttle": 0x40 | 0x4}


@pytest.fixture(autouse=True)
def recorded_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml)


def watch_of(*series: dict, before: dict = IDLE) -> Watch:
    """Return a watch that has taken one sample of every reading."""
    fake_nvml.replay([before, *series])
    watch = Watch(GpuSampler(open_gpu("GPU-1")))
    for _ in series:
        watch.sample()
    return watch


def test_clocks_and_throttling_are_those_of_a_busy_gpu():
    gpu = watch_of(IDLE, BUSY, HOT, BUSY).summary().gpu
    assert gpu.busy_samples == 3
    assert gpu.sm_clock_mhz == Range(low=1500, mean=5300 / 3, high=1900)
    assert gpu.sm_clock_ratio == pytest.approx(5300 / 3 / 2000)
    assert gpu.throttle_shares == {"hardware thermal slowdown": 1 / 3, "software power cap": 1 / 3}
    assert gpu.power_w.low == 70 and gpu.temperature_c == Range(low=30, mean=57.5, high=80)
    assert gpu.utilization.low == 98


def test_a_gpu_that_is_never_busy_has_no_clocks():
    gpu = watch_of(IDLE, IDLE).summary().gpu
    assert gpu.busy_samples == 0 and gpu.sm_clock_mhz is None and gpu.sm_clock_ratio is None
    assert gpu.throttle_shares == {} and gpu.power_w is not None


def test_a_driver_that_lacks_readings_leaves_them_unknown():
    lacking = {"utilization": None, "sm": None, "memory": None, "power_mw": None, "temperature": None, "throttle": None}
    gpu = watch_of(BUSY | lacking).summary().gpu
    assert gpu.busy_samples == 0 and gpu.power_w is None and gpu.temperature_c is None


@pytest.mark.parametrize(
    ("before", "during", "worker", "foreign"),
    [
        ((), (7,), 7, ()),
        ((), (7, 9), 7, (9,)),
        ((9,), (9, 7), 7, (9,)),
        ((), (5007,), 7, ()),  # a container: the driver has another number for our process
        ((5001,), (5001, 5007), 7, (5001,)),
        ((), (5007, 5009), 7, (5007, 5009)),  # which of the two is ours cannot be told
        ((9,), (9,), 7, (9,)),
    ],
)
def test_processes_on_the_gpu_that_are_not_the_case(before, during, worker, foreign):
    watch = watch_of(BUSY | {"pids": during}, before=IDLE | {"pids": before})
    watch.is_worker(worker)
    assert watch.summary().gpu.foreign_pids == foreign


class Counters:
    """A machine of 8 cores whose clock and counters a test moves."""

    def __init__(self, folder: Path) -> None:
        self.stat, self.seconds = folder / "stat", 100.0
        self.move(0, 0, 0)

    def move(self, seconds: float, busy: int, stolen: int) -> None:
        self.seconds += seconds
        old = [int(word) for word in self.stat.read_text().split()[1:]] if self.stat.exists() else [0] * 8
        self.stat.write_text("cpu " + " ".join(map(str, [old[0] + busy, *old[1:7], old[7] + stolen])) + "\n")

    def watch(self) -> Watch:
        return Watch(clock_s=lambda: self.seconds, stat=self.stat)


def test_time_of_others_and_of_other_machines(tmp_path):
    machine = Counters(tmp_path)
    watch = machine.watch()
    watch.switch(on=True)
    machine.move(2.0, busy=600, stolen=100)  # ticks of 10 ms
    watch.sample()
    machine.move(2.0, busy=200, stolen=0)
    watch.switch(on=False)
    cpu = watch.summary().cpu
    # This process took some ticks of its own meanwhile.
    assert cpu.other_cores.high == pytest.approx(3.0, abs=0.1) and cpu.other_cores.low == pytest.approx(1.0, abs=0.1)
    assert cpu.stolen_cores == Range(low=0, mean=0.25, high=0.5)


def test_a_stretch_between_two_phases_does_not_count(tmp_path):
    machine = Counters(tmp_path)
    watch = machine.watch()
    for busy in (0, 1000, 0):
        watch.switch(on=busy == 0)
        machine.move(1.0, busy=busy, stolen=0)
    watch.switch(on=False)
    summary = watch.summary()
    assert summary.samples == 2
    assert summary.cpu.other_cores.high < 0.2


def test_a_machine_that_counts_nothing_has_no_series(tmp_path):
    watch = Watch(stat=tmp_path / "missing")
    watch.switch(on=True)
    watch.switch(on=False)
    assert watch.summary() is None


def test_the_thread_samples_while_switched_on_and_ends_with_the_block():
    seen = threading.Semaphore(0)

    class Reader:
        most_sm_mhz = None

        def read(self):
            seen.release()
            return GpuSampler(open_gpu("GPU-1")).read()

    fake_nvml.replay([BUSY])
    with Watch(Reader(), interval_s=0.001) as watch:
        assert seen.acquire(timeout=10)  # before the case
        watch.switch(on=True)
        for _ in range(3):
            assert seen.acquire(timeout=10)
        watch.switch(on=False)
    assert watch.summary().gpu.busy_samples >= 3
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())


def test_a_block_that_was_never_switched_on_ends_too():
    with Watch() as watch:
        pass
    assert watch.summary() is None


@pytest.mark.parametrize(
    ("files", "mhz"),
    [
        ({"cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n", "cpu/cpu1/cpufreq/scaling_cur_freq": "1200000\n"}, 1800),
        ({"cpuinfo": "model name : x\ncpu MHz\t\t: 2445.5\ncpu MHz\t\t: 2000.5\n"}, 2223),
        ({"cpuinfo": "cpu MHz : unknown\n"}, None),
        ({"cpu/cpu0/cpufreq/scaling_cur_freq": "<unknown>\n"}, None),
        ({}, None),
    ],
)
def test_the_clock_of_the_processors_where_it_can_be_read(tmp_path, files, mhz):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert clock_mhz(tmp_path / "cpu", tmp_path) == mhz


def test_a_job_is_sampled_in_its_timed_phases():
    switched: list[bool] = []
    workers: list[int] = []
    watch = SimpleNamespace(
        switch=lambda on: switched.append(on), is_worker=workers.append, summary=lambda locked: None
    )
    passed: list[Event] = []
    listen = WatchedJob(watch, False).listener(passed.append)
    events = [Event(phase="import", pid=42), *(Event(phase=p) for p in ("load", "warm-up", "timing", "memory"))]
    for event in events:
        listen(event)
    assert switched == [False, False, True, True, False] and workers == [42] and passed == events


def test_telemetry_is_part_of_a_result_with_times(tmp_path):
    job = Job(record_id="r", case=CaseConfig(model="demo/var", weights="demo"), folder=tmp_path)
    failed = Result(outcome=Failed(status=Status.ERROR, reason="broken"))
    with watching(job) as watched:
        listen = watched.listener(lambda event: None)
        listen(Event(phase="timing"))
        listen(Event(phase="memory"))
    assert watched.add_to(failed) == failed
    outcome = watched.add_to(Result(outcome=record().outcome)).outcome
    assert isinstance(outcome, Measured)
    assert outcome.telemetry is None or outcome.telemetry.gpu is None  # None where no tick passed
    assert Measured.model_validate_json(outcome.model_dump_json()) == outcome
