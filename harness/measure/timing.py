"""Duration of a sampling call by scope, from the events of one call.

Scopes   step[i]  one forward pass, the noise of that step and the draw of its tokens; step[0] also holds the work done
                  once before the first forward pass (class embedding, adaLN projections)
         tokens   the autoregressive loop: from the begin of the first step to the end of the last
         decode   from tokens to float images
         images   the whole call, from labels to uint8 images: noise set-up, tokens, decode, conversion
Units    _ns nanoseconds
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from torch import Tensor

from arvbench.adapters.call import Samples, StepOutput
from arvbench.adapters.schedule import Schedule, Step
from arvbench.errors import ContractError
from arvbench.harness.measure.clocks import Clock, ClocksDisagree, check_against_wall, scatter_ns
from arvbench.harness.measure.integrity import Snapshot
from arvbench.results.schema import Timing, WarmUp

CLOCK_ATTEMPTS = 3
"""Calls after which clocks that disagree are an error. A host that is interrupted between two marks makes them disagree
once; work that the events did not see does so in every call.
"""
STEADY_CALLS = 3
"""Calls in a row that must agree before warm-up ends."""
STEADY_SHARE = 0.05
"""Largest difference between them, relative to the shortest."""
STEADY_SCATTERS = 3
"""Difference that is always allowed, in units of the clock's own scatter."""
LEVEL_CALLS = 6
"""Timed calls that can show a level by themselves."""
TREND_CALLS = 6
"""Number of last calls that are examined for a trend."""
TREND_PAIRS = 11
"""Excess of pairs in one order, among the 15 pairs of six calls, that makes a trend (Mann-Kendall). Calls without a
trend reach it in 5.6 % of all cases, so they must also differ by STEADY_SHARE.
"""

SamplingCall = Callable[["TimingObserver"], Samples]
"""One call, from labels to uint8 images, that reports its events to the observer."""


class TimingObserver:
    """Marks every event of one call."""

    reads_logits = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps: list[list[Any]] = []
        self._decode: list[Any] = []

    def step_begin(self, step: Step) -> None:
        self._steps.append([self._clock.mark()])

    def step_end(self, step: Step, output: StepOutput) -> None:
        self._steps[-1].append(self._clock.mark())

    def decode_begin(self) -> None:
        self._decode.append(self._clock.mark())

    def decode_end(self, decoded: Tensor) -> None:
        self._decode.append(self._clock.mark())

    def scopes_ns(self) -> dict[str, int]:
        """Return nanoseconds by scope; call it after the clock has settled.

        Raises ContractError when begin and end of a step or of decode were not reported in pairs.
        """
        if not self._steps or any(len(marks) != 2 for marks in [*self._steps, self._decode]):
            raise ContractError("the adapter did not report a begin and an end of every step and of one decode")
        scopes = {f"step[{i}]": self._clock.between_ns(*marks) for i, marks in enumerate(self._steps)}
        scopes["tokens"] = self._clock.between_ns(self._steps[0][0], self._steps[-1][1])
        scopes["decode"] = self._clock.between_ns(*self._decode)
        return scopes


def time_once(call: SamplingCall, clock: Clock) -> dict[str, int]:
    """Return nanoseconds of one call by scope.

    Raises ContractError when the time cannot be defended: the device clock and the wall clock disagree about
    CLOCK_ATTEMPTS calls in a row, or the results were not there yet when the call returned.
    """
    for attempt in range(1, CLOCK_ATTEMPTS + 1):
        try:
            return _time_call(call, clock)
        except ClocksDisagree:
            if attempt == CLOCK_ATTEMPTS:
                raise
    raise AssertionError("no attempt")


def _time_call(call: SamplingCall, clock: Clock) -> dict[str, int]:
    observer = TimingObserver(clock)
    wall = clock.wall
    clock.settle()
    wall_begin, begin = wall.mark(), clock.mark()
    samples = call(observer)
    end = clock.mark()
    snapshot = Snapshot(samples)  # before anything waits: what another stream or thread still writes is not in it
    clock.settle()
    wall_ns = wall.between_ns(wall_begin, wall.mark())
    images_ns = clock.between_ns(begin, end)
    if wall is not clock:
        check_against_wall(images_ns, wall_ns)
    snapshot.check()
    return observer.scopes_ns() | {"images": images_ns}


def warm_up(call: SamplingCall, clock: Clock, *, most: int, progress: Callable[[int], None]) -> WarmUp:
    """Call until the times agree, at most `most` times."""
    scatter = scatter_ns(clock)
    samples: list[int] = []
    while len(samples) < most and not agree(samples, scatter):
        samples.append(time_once(call, clock)["images"])
        progress(len(samples))
    return WarmUp(samples_ns=tuple(samples), steady=agree(samples, scatter))


def agree(samples_ns: Sequence[int], clock_scatter_ns: int = 0) -> bool:
    """True when the last STEADY_CALLS calls differ by no more than 5 %, or by three times the clock's scatter."""
    last = samples_ns[-STEADY_CALLS:]
    if len(last) < STEADY_CALLS:
        return False
    return max(last) - min(last) <= max(STEADY_SHARE * min(last), STEADY_SCATTERS * clock_scatter_ns)


def has_trend(samples_ns: Sequence[int]) -> bool:
    """True when the last TREND_CALLS calls get slower or faster, nearly without exception and by more than 5 %."""
    last = samples_ns[-TREND_CALLS:]
    if len(last) < TREND_CALLS:
        return False
    excess = sum((later > earlier) - (later < earlier) for earlier, later in combinations(last, 2))
    half = TREND_CALLS // 2
    return abs(excess) >= TREND_PAIRS and abs(median(last[half:]) - median(last[:half])) > STEADY_SHARE * min(last)


def has_level(samples_ns: Sequence[int]) -> bool:
    """True for LEVEL_CALLS calls or more of which the middle half differ by no more than 5 %."""
    if len(samples_ns) < LEVEL_CALLS:
        return False
    quarter = len(samples_ns) // 4
    middle = sorted(samples_ns)[quarter : len(samples_ns) - quarter]
    return middle[-1] - middle[0] <= STEADY_SHARE * middle[0]


def judge_warm_up(warmup: WarmUp, timings: Sequence[Timing]) -> WarmUp:
    """Return the warm-up as the timed calls show it.

    It is steady when its last calls agreed, or the timed calls have a level: then their median holds, and a few warm-up
    calls apart from one another were noise. It is unsteady when the timed calls continue a trend.
    """
    timed = next(timing.samples_ns for timing in timings if timing.scope == "images")
    steady = (warmup.steady or has_level(timed)) and not has_trend([*warmup.samples_ns, *timed])
    return WarmUp(samples_ns=warmup.samples_ns, steady=steady)


def measure_times(
    call: SamplingCall, clock: Clock, schedule: Schedule, *, repeats: int, progress: Callable[[int], None]
) -> tuple[Timing, ...]:
    """Return the raw times of `repeats` calls, one Timing per scope, steps first.

    Raises ContractError when the calls have other steps than `schedule`.
    """
    passes = []
    for done in range(1, repeats + 1):
        passes.append(time_once(call, clock))
        progress(done)
    step_rows = {f"step[{step.index}]": step.rows for step in schedule}
    rows = step_rows | {"tokens": sum(step_rows.values()), "decode": 0, "images": sum(step_rows.values())}
    if any(scopes.keys() != rows.keys() for scopes in passes):
        raise ContractError(f"the adapter planned {len(schedule)} steps and reported {len(passes[0]) - 3}")
    return tuple(
        Timing(
            scope=scope,
            samples_ns=tuple(scopes[scope] for scopes in passes),
            images=schedule.images,
            forward_rows=rows[scope],
            clock=clock.kind,
        )
        for scope in rows
    )
