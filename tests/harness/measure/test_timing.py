"""Times by scope from the events of one call."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from arvbench.adapters.call import Samples
from arvbench.errors import ContractError
from arvbench.harness.measure.clocks import CLOCK_SLACK_NS, WallClock, check_against_wall, clock_for
from arvbench.harness.measure.timing import (
    TimingObserver,
    agree,
    has_trend,
    judge_warm_up,
    measure_times,
    time_once,
    warm_up,
)
from arvbench.results.schema import Timing, WarmUp

MS = 1_000_000
RESULT = Samples(
    images=torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
    decoded=torch.zeros(1, 3, 2, 2),
    tokens=(torch.zeros(1, 4, dtype=torch.int64),),
    labels=torch.zeros(1, dtype=torch.int64),
)


class HandClock:
    """A clock that tests set by hand; by default it is its own wall clock."""

    kind = "wall"

    def __init__(self, wall: HandClock | None = None) -> None:
        self.now = 0
        self.wall = wall or self

    def mark(self) -> int:
        return self.now

    def settle(self) -> None: ...

    def between_ns(self, begin: int, end: int) -> int:
        return end - begin


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


class Script:
    """A sampling call of two steps whose parts take known times (ns)."""

    def __init__(self, clock: HandClock, **changes: int) -> None:
        self.clock = clock
        self.parts = {
            "before": 1,
            "step0": 10,
            "between": 100,
            "step1": 1000,
            "decode": 10_000,
            "after": 100_000,
        } | changes

    def __call__(self, observer: TimingObserver) -> Samples:
        nothing: Any = SimpleNamespace()
        self._pass("before")
        observer.step_begin(nothing)
        self._pass("step0")
        observer.step_end(nothing, nothing)
        self._pass("between")
        observer.step_begin(nothing)
        self._pass("step1")
        observer.step_end(nothing, nothing)
        observer.decode_begin()
        self._pass("decode")
        observer.decode_end(nothing)
        self._pass("after")
        return RESULT

    def _pass(self, part: str) -> None:
        self.clock.now += self.parts[part]


class Plan:
    """As much of a Schedule as timing reads."""

    images = 4

    def __init__(self, *rows: int) -> None:
        self.rows = rows

    def __iter__(self):
        return iter(SimpleNamespace(index=i, rows=rows) for i, rows in enumerate(self.rows))

    def __len__(self) -> int:
        return len(self.rows)


def ignore(done: int) -> None: ...


def test_scopes_cover_their_steps(clock):
    assert time_once(Script(clock), clock) == {
        "step[0]": 10,
        "step[1]": 1000,
        "tokens": 10 + 100 + 1000,
        "decode": 10_000,
        "images": 111_111,
    }


def test_one_timing_per_scope_with_raw_samples_in_order(clock):
    script = Script(clock)

    def slower_every_time(observer: TimingObserver) -> Samples:
        script.parts["step1"] += 1
        return script(observer)

    timings = {t.scope: t for t in measure_times(slower_every_time, clock, Plan(8, 8), repeats=3, progress=ignore)}
    assert list(timings) == ["step[0]", "step[1]", "tokens", "decode", "images"]
    assert timings["step[1]"].samples_ns == (1001, 1002, 1003)
    assert timings["step[0]"].forward_rows == 8
    assert timings["images"].forward_rows == timings["tokens"].forward_rows == 16
    assert timings["decode"].forward_rows == 0
    assert {t.images for t in timings.values()} == {4}


def test_a_plan_with_other_steps_than_the_call_is_a_broken_contract(clock):
    with pytest.raises(ContractError, match="planned 3 steps and reported 2"):
        measure_times(Script(clock), clock, Plan(8, 8, 8), repeats=1, progress=ignore)


def test_a_call_without_events_is_a_broken_contract(clock):
    def half(observer: TimingObserver) -> Samples:
        observer.step_begin(None)
        return RESULT

    for call in (lambda observer: RESULT, half):
        with pytest.raises(ContractError, match="begin and an end"):
            time_once(call, clock)


def test_warm_up_ends_when_calls_agree(clock):
    durations = iter([900 * MS, 500 * MS, 310 * MS, 300 * MS, 305 * MS, 1 * MS])
    script = Script(clock)

    def call(observer: TimingObserver) -> Samples:
        script.parts["after"] = next(durations)
        return script(observer)

    result = warm_up(call, clock, most=10, progress=ignore)
    assert result.steady
    assert [round(ns / MS) for ns in result.samples_ns] == [900, 500, 310, 300, 305]


def test_warm_up_that_never_agrees_ends_and_says_so(clock):
    durations = iter([900 * MS, 500 * MS, 300 * MS, 200 * MS, 100 * MS])
    script = Script(clock)

    def call(observer: TimingObserver) -> Samples:
        script.parts["after"] = next(durations)
        return script(observer)

    result = warm_up(call, clock, most=4, progress=ignore)
    assert not result.steady
    assert len(result.samples_ns) == 4


@pytest.mark.parametrize(
    ("samples_ms", "scatter_ms", "enough"),
    [
        ([100, 100], 0, False),
        ([100, 104, 102], 0, True),
        ([100, 110, 102], 0, False),
        ([1, 5, 3], 0, False),
        ([1, 5, 3], 2, True),
        ([30, 32, 31], 0, False),
        ([100, 104, 102, 150], 0, False),
        ([900, 100, 104, 102], 0, True),
    ],
)
def test_calls_agree_within_five_percent_or_three_times_the_scatter_of_the_clock(samples_ms, scatter_ms, enough):
    assert agree([ms * MS for ms in samples_ms], scatter_ms * MS) is enough


@pytest.mark.parametrize(
    ("samples_ms", "trend"),
    [
        ([100, 102, 104, 106, 108, 110], True),
        ([64, 63, 64, 70, 80, 106], True),
        ([200, 110, 108, 106, 104, 102, 100], True),
        ([100, 101, 102, 103, 104, 104], False),  # all in order, and within 5 %
        ([100, 120, 100, 120, 100, 120], False),  # noise
        ([100, 110, 120], False),  # too few to tell
        ([300, 200, 100, 101, 100, 101, 100, 101], False),  # long over
    ],
)
def test_a_trend_is_a_change_in_one_direction_by_more_than_five_percent(samples_ms, trend):
    assert has_trend([ms * MS for ms in samples_ms]) is trend


def images_timing(calls_ms: Sequence[float]) -> Timing:
    samples = tuple(round(ms * MS) for ms in calls_ms)
    return Timing(scope="images", samples_ns=samples, images=1, forward_rows=1, clock="wall")


@pytest.mark.parametrize(
    ("timed_ms", "steady"),
    [
        ((100, 102, 99, 101, 140, 100), True),  # one was disturbed
        ((100, 140, 99, 141, 100, 140), False),  # two levels
        ((130, 120, 100, 100, 100, 100), False),  # still warming up
        ((100, 101, 100), False),  # too few to have a level
    ],
)
def test_timed_calls_with_a_level_are_steady_after_a_restless_warm_up(timed_ms, steady):
    warmup = WarmUp(samples_ns=(150 * MS, 100 * MS, 110 * MS, 101 * MS), steady=False)
    assert judge_warm_up(warmup, [images_timing(timed_ms)]).steady is steady


def demo_case(rng: np.random.Generator, noise: float) -> bool:
    """Return whether a case of the suite `demo` is steady under normal noise: 4 warm-up calls at most, 6 timed."""
    calls = iter((100 * MS * (1 + rng.normal(0, noise, 10))).tolist())
    warmup: list[float] = []
    while len(warmup) < 4 and not agree(warmup):
        warmup.append(next(calls))
    timed = [next(calls) / MS for _ in range(6)]
    return judge_warm_up(
        WarmUp(samples_ns=tuple(map(int, warmup)), steady=agree(warmup)), [images_timing(timed)]
    ).steady


def test_a_quiet_machine_has_no_unsteady_cases():
    rng = np.random.default_rng(0)
    unsteady = {noise: sum(not demo_case(rng, noise) for _ in range(1000)) for noise in (0.01, 0.015, 0.1)}
    assert unsteady[0.01] == 0 and unsteady[0.015] <= 3 and unsteady[0.1] > 500


@pytest.mark.parametrize(("timed_ms", "steady"), [((100, 101, 100), True), ((104, 110, 118), False)])
def test_a_warm_up_is_unsteady_when_the_timed_calls_keep_rising(timed_ms, steady):
    warmup = WarmUp(samples_ns=(100 * MS, 101 * MS, 102 * MS), steady=True)
    assert judge_warm_up(warmup, [images_timing(timed_ms)]).steady is steady


def test_a_device_clock_that_missed_work_is_refused():
    check_against_wall(95 * MS, 100 * MS)
    check_against_wall(0, CLOCK_SLACK_NS)
    with pytest.raises(ContractError, match=r"60\.00 ms and the wall clock 100\.00 ms"):
        check_against_wall(60 * MS, 100 * MS)
    with pytest.raises(ContractError):
        check_against_wall(140 * MS, 100 * MS)


def test_the_check_guards_every_timed_call():
    wall = HandClock()
    clock = HandClock(wall)

    def call(observer: TimingObserver) -> Samples:
        result = Script(clock)(observer)
        wall.now += 50 * MS
        return result

    with pytest.raises(ContractError, match="another stream"):
        time_once(call, clock)


def test_a_host_that_was_interrupted_once_does_not_blame_the_sampler():
    wall = HandClock()
    clock = HandClock(wall)
    waits = [50 * MS, 0]

    def call(observer: TimingObserver) -> Samples:
        result = Script(clock)(observer)
        wall.now += waits.pop(0)
        return result

    assert time_once(call, clock)["images"] > 0 and not waits


def test_the_wall_clock_is_not_checked_against_itself():
    class Interrupted(HandClock):
        def mark(self) -> int:
            self.now += 500 * MS
            return self.now

    clock = Interrupted()
    assert time_once(Script(clock), clock)["images"] > 500 * MS


def test_the_cpu_is_timed_by_the_wall_clock():
    clock = clock_for(torch.device("cpu"))
    assert isinstance(clock, WallClock) and clock.wall is clock
