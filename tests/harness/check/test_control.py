"""Signs that the machine moved, from launches whose machine is made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from records import GPU, failed, record

from arvbench.harness.check.control import machine_moved, ratio_interval
from arvbench.results.machine import Control, ControlTimes, CpuSeries, GpuSeries, HostLoad, Range, Telemetry
from arvbench.results.schema import Record, Status

QUIET = HostLoad(cores=8, load_average=1.0, other_cores=0.1, stolen_cores=0.0, slowdown=1.0)


def times(rng: np.random.Generator, *, noise: float = 0.003, **factors: float) -> ControlTimes:
    return ControlTimes(
        **{
            f"{name}_ns": tuple(int(1e6 * factors.get(name, 1) * f) for f in 1 + noise * rng.standard_normal(9))
            for name in ("gemm", "copy", "host")
        }
    )


def launches(seed: int, count: int = 8, *, work: str = "w", **options: float) -> list[Record]:
    """Launches whose probes take `factors` (gemm, copy, host) times as long as others'."""
    rng = np.random.default_rng(seed)
    return [
        record(number=i, control=Control(work=work, before=times(rng, **options), after=times(rng, **options)))
        for i in range(count)
    ]


def loads(count: int = 6, **changes: float) -> list[Record]:
    return [record(number=i, host_load=QUIET.model_copy(update=changes)) for i in range(count)]


def on_gpu(count: int = 6, *, mhz: float = 1900, foreign: tuple[int, ...] = (), **throttle: float) -> list[Record]:
    series = GpuSeries(
        busy_samples=20,
        utilization=Range(low=60, mean=90, high=100),
        sm_clock_mhz=Range(low=mhz - 10, mean=mhz, high=mhz + 10),
        memory_clock_mhz=None,
        sm_clock_ratio=0.95,
        throttle_shares={name.replace("_", " "): share for name, share in throttle.items()},
        power_w=None,
        temperature_c=None,
        foreign_pids=foreign,
    )
    cpu = CpuSeries(clock_mhz=None, load_average=None, other_cores=None, stolen_cores=None)
    telemetry = Telemetry(interval_s=0.2, samples=30, clocks_locked=False, cpu=cpu, gpu=series)
    return [record(number=i, gpu=GPU, telemetry=telemetry) for i in range(count)]


def test_equal_machines_show_no_sign():
    assert machine_moved(launches(1), launches(2)) == []
    assert machine_moved(loads(), loads()) == []
    assert machine_moved(on_gpu(), on_gpu()) == []


@pytest.mark.parametrize(
    ("name", "words"), [("gemm", "matrix product"), ("copy", "fixed copy"), ("host", "loop on the host")]
)
@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_slower_and_a_faster_probe_of_any_kind_are_signs(name, words, factor):
    (sentence,) = machine_moved(launches(1), launches(2, **{name: factor}))
    assert words in sentence and f"{factor:.2f}"[:3] in sentence and "limit 2%" in sentence


def test_what_is_within_two_percent_is_no_sign():
    assert machine_moved(launches(1), launches(2, gemm=1.015, copy=0.985)) == []


def test_a_noisy_machine_is_not_taken_for_one_that_moved():
    """A processor of two speeds that differ by 2, at random: 15 checks of equal sides."""
    said = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        sides = [[r for _ in range(8) for r in launches(int(rng.integers(1e9)), 1, gemm=1 + rng.integers(2))]
                 for _ in range(2)]  # fmt: skip
        said += bool(machine_moved(*sides))
    assert said == 0


def test_a_noisy_machine_that_moves_far_is_seen():
    rng = np.random.default_rng(0)
    base = [r for _ in range(8) for r in launches(int(rng.integers(1e9)), 1, host=1 + 0.3 * rng.random())]
    head = [r for _ in range(8) for r in launches(int(rng.integers(1e9)), 1, host=1.5 + 0.3 * rng.random())]
    assert "loop on the host" in machine_moved(base, head)[0]


def test_only_equal_work_is_compared():
    assert machine_moved(launches(1, work="1 thread"), launches(2, work="2 threads", gemm=3)) == []
    base = [*launches(1, work="a"), *launches(1, work="b")]
    head = [*launches(2, work="a"), *launches(3, work="b", gemm=1.1)]
    assert len(machine_moved(base, head)) == 1


@pytest.mark.parametrize(("factor", "signs"), [(1.0, 0), (1.1, 1)])
def test_few_launches_are_compared_by_their_samples(factor, signs):
    assert len(machine_moved(launches(1, 1), launches(2, 1, copy=factor))) == signs


def test_what_a_record_does_not_hold_is_no_sign():
    plain, lost = [record(number=0)], [failed(Status.OOM, "out of memory", number=1)]
    for head in (plain, lost, []):
        assert machine_moved(launches(1), head) == []
        assert machine_moved(head, on_gpu(foreign=())) == []


def test_a_slower_clock_on_either_side_is_a_sign():
    assert machine_moved(on_gpu(mhz=1900), on_gpu(mhz=1800)) == []
    for sides in ((on_gpu(), on_gpu(mhz=1700)), (on_gpu(mhz=1700), on_gpu())):
        (sentence,) = machine_moved(*sides)
        assert "1700 MHz" in sentence and "93%" in sentence


def test_throttling_in_more_than_five_percent_of_the_samples_is_a_sign():
    assert machine_moved(on_gpu(software_power_cap=0.05), on_gpu()) == []
    (sentence,) = machine_moved(on_gpu(), on_gpu(hardware_thermal_slowdown=0.06))
    assert "beside head: hardware thermal slowdown in 6%" in sentence


def test_a_foreign_process_in_one_launch_is_a_sign():
    (sentence,) = machine_moved([*on_gpu(5), *on_gpu(1, foreign=(4711,))], on_gpu())
    assert "beside base: 4711" in sentence


@pytest.mark.parametrize(
    ("base", "head", "words"),
    [
        ({"other_cores": 6.5}, {"other_cores": 7.0}, None),
        ({"other_cores": 7.5}, {"other_cores": 7.5}, "limit 90%"),
        ({"other_cores": 0.1}, {"stolen_cores": 2.4}, "differ by 25%"),
    ],
)
def test_neighbours_are_a_sign_beyond_a_stated_limit(base, head, words):
    sentences = machine_moved(loads(**base), loads(**head))
    assert [words in sentence for sentence in sentences] == ([] if words is None else [True])


def test_one_disturbed_launch_is_no_sign():
    assert machine_moved(loads(), [*loads(5), *loads(1, other_cores=8.0)]) == []


def test_an_interval_holds_the_true_ratio_as_often_as_it_says():
    rng, inside = np.random.default_rng(5), 0
    for _ in range(50):
        base, head = rng.lognormal(0, 0.2, 8), 1.1 * rng.lognormal(0, 0.2, 8)
        low, high = ratio_interval(base.tolist(), head.tolist(), level=0.025)
        inside += low <= 1.1 <= high
    assert inside >= 45


def test_too_few_values_give_no_bound():
    low, high = ratio_interval([1.0], [2.0], level=0.01)
    assert (low, high) == (0, math.inf)


@pytest.mark.parametrize("ns", [(), (0, 0), (-1,), (0, 10**6), (10**30,)])
@pytest.mark.parametrize("count", [2, 8])
def test_a_probe_that_is_no_measurement_is_no_sign(ns, count):
    """Records are files, which anybody may edit: no division by what they hold."""
    none = ControlTimes(gemm_ns=ns, copy_ns=(), host_ns=ns)
    odd = [record(number=i, control=Control(work="w", before=none, after=none)) for i in range(count)]
    for base, head in ((odd, launches(1, count)), (launches(1, count), odd), (odd, odd)):
        moved = machine_moved(base, head)
        assert not moved or (max(ns) > 10**9 and base is not head)


@pytest.mark.parametrize(
    "changes", [{"cores": 0}, {"cores": -2}, {"other_cores": math.nan}, {"stolen_cores": math.inf}]
)
def test_a_load_that_is_no_measurement_is_no_sign(changes):
    assert machine_moved(loads(**changes), loads()) == machine_moved(loads(), loads(**changes)) == []
