"""Signs that the machine moved between the two sides of a check: then no code is blamed.

Speed      the control probe of one side took longer than that of the other. Compared are medians per launch; moved is
           what lies beyond 2 % with its whole interval, so that a noisy machine is not taken for one that moved. Its
           noise is in the gated numbers too, and makes them inconclusive
Clock      the SM clock while busy, median of the launches, is below 93 % of the other side's
Throttle   one reason in more than 5 % of a side's busy samples
Neighbour  a foreign process on the GPU in any launch; or, in the median launch, other processes and other machines took
           more than nine tenths of the cores, or a quarter of them more than beside the other side

Units    _ns nanoseconds, _mhz megahertz, _c degrees Celsius
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from arvbench.results.machine import Control, ControlTimes, GpuSeries
from arvbench.results.schema import Measured, Record

MOST_CONTROL = 0.02
"""Largest difference of control times, relative to the other side."""
LEVEL = 0.01
"""Chance that a machine that did not move is said to have, over all control times of a check."""
LEAST_CLOCK = 0.93
MOST_THROTTLED = 0.05
MOST_OTHERS = 0.9
"""Share of the cores that others may take in the median launch."""
MOST_OTHERS_APART = 0.25
"""Difference of these shares between the sides."""
_FEWEST_LAUNCHES = 6
"""Launches of a side that suffice for LEVEL. With fewer, the raw samples of the probe are compared: they tell that the
machine differed, though not that it will in the next launch."""
_PROBES: Mapping[str, tuple[str, Callable[[ControlTimes], tuple[int, ...]]]] = {
    "gemm": ("a fixed matrix product", lambda times: times.gemm_ns),
    "copy": ("a fixed copy", lambda times: times.copy_ns),
    "host": ("a fixed loop on the host", lambda times: times.host_ns),
}


def machine_moved(base_launches: Sequence[Record], head_launches: Sequence[Record]) -> list[str]:
    """Return the signs that the machine moved between two sides, one sentence each; none when there is no sign.

    The launches may be of several cases. What a record does not hold is no sign: a field that is missing or is no
    measurement (a time of 0, a machine without cores), or a case that failed.
    """
    base, head = _measured(base_launches), _measured(head_launches)
    return [
        *_speeds([o.control for o in base if o.control], [o.control for o in head if o.control]),
        *_clocks(_gpus(base), _gpus(head)),
        *(sentence for side, gpus in (("base", _gpus(base)), ("head", _gpus(head))) for sentence in _gpu(side, gpus)),
        *_others(_taken(base), _taken(head)),
    ]


def _measured(records: Iterable[Record]) -> list[Measured]:
    return [record.outcome for record in records if isinstance(record.outcome, Measured)]


def _gpus(outcomes: Iterable[Measured]) -> list[GpuSeries]:
    return [o.telemetry.gpu for o in outcomes if o.telemetry is not None and o.telemetry.gpu is not None]


def _speeds(base: Sequence[Control], head: Sequence[Control]) -> list[str]:
    """Compare the times of equal work."""
    works = {control.work for control in base} & {control.work for control in head}
    sentences = []
    for work in sorted(works):
        sides = [[control for control in side if control.work == work] for side in (base, head)]
        for name, samples_of in _PROBES.values():
            times = [_times(side, samples_of, per_launch=min(map(len, sides)) >= _FEWEST_LAUNCHES) for side in sides]
            if not all(times):
                continue
            # Two directions of each probe of each work share the level.
            low, high = ratio_interval(*times, level=LEVEL / (2 * len(_PROBES) * len(works)))
            if low > 1 + MOST_CONTROL or high < 1 / (1 + MOST_CONTROL):
                ratio = median(times[1]) / median(times[0])
                sentences.append(
                    f"{name}, which no commit changes, took {ratio:.3f} times as long beside head as beside base "
                    f"(interval {low:.3f} to {high:.3f}, limit {MOST_CONTROL:.0%})"
                )
    return sentences


def _times(
    side: Sequence[Control], samples_of: Callable[[ControlTimes], tuple[int, ...]], *, per_launch: bool
) -> list[float]:
    """Return one median per launch, or all samples of few launches; only times above 0."""
    both = ([*samples_of(control.before), *samples_of(control.after)] for control in side)
    launches = [[float(ns) for ns in launch if ns > 0] for launch in both]
    if per_launch:
        return [median(launch) for launch in launches if launch]
    return [ns for launch in launches for ns in launch]


def ratio_interval(base: Sequence[float], head: Sequence[float], *, level: float) -> tuple[float, float]:
    """Return the range of factors by which `head` may be a shifted `base`, each bound missed with chance `level`.

    Whatever the distribution: the factors that a one-sided Mann-Whitney test does not refuse. 0 or infinity stands
    for a bound that so few values cannot give.
    """
    inverse = _lower_bound(head, base, level)
    return _lower_bound(base, head, level), 1 / inverse if inverse else math.inf


def _lower_bound(base: Sequence[float], head: Sequence[float], level: float) -> float:
    """Return the largest factor such that `head` is greater than `base` times any smaller one."""
    from scipy.stats import mannwhitneyu

    def not_refused(factor: float) -> bool:
        """True when head may be base times a factor just below `factor`."""
        shifted = [value * factor * (1 - 1e-12) for value in base]
        return bool(mannwhitneyu(head, shifted, alternative="greater").pvalue > level)

    # The test changes its mind only at these.
    factors = sorted(h / b for h in head for b in base)
    refused = bisect_right(factors, 0, key=not_refused)
    return factors[refused - 1] if refused else 0.0


def _clocks(base: Sequence[GpuSeries], head: Sequence[GpuSeries]) -> list[str]:
    mhz = [[gpu.sm_clock_mhz.mean for gpu in side if gpu.sm_clock_mhz] for side in (base, head)]
    if not all(mhz):
        return []
    of_base, of_head = map(median, mhz)
    if min(of_base, of_head) >= LEAST_CLOCK * max(of_base, of_head):
        return []
    return [
        f"the SM clock while busy was {of_head:.0f} MHz beside head and {of_base:.0f} MHz beside base: the slower one "
        f"is below {LEAST_CLOCK:.0%} of the other"
    ]


def _gpu(side: str, gpus: Sequence[GpuSeries]) -> list[str]:
    """Name the throttling and the foreign processes of one side."""
    busy = sum(gpu.busy_samples for gpu in gpus)
    shares: dict[str, float] = defaultdict(float)
    for gpu in gpus:
        for reason, share in gpu.throttle_shares.items():
            shares[reason] += share * gpu.busy_samples / (busy or 1)
    sentences = [
        f"the GPU throttled beside {side}: {reason} in {share:.0%} of the busy samples (limit {MOST_THROTTLED:.0%})"
        for reason, share in sorted(shares.items())
        if share > MOST_THROTTLED
    ]
    if pids := sorted({pid for gpu in gpus for pid in gpu.foreign_pids}):
        sentences.append(f"other processes used the GPU beside {side}: {', '.join(map(str, pids[:5]))}")
    return sentences


def _taken(outcomes: Iterable[Measured]) -> list[float]:
    """Return the share of the cores that other processes and machines took, for every launch that knows it."""
    loads = [outcome.host_load for outcome in outcomes if outcome.host_load is not None]
    shares = [(load.other_cores + load.stolen_cores) / load.cores for load in loads if load.cores > 0]
    return [share for share in shares if math.isfinite(share)]


def _others(base: Sequence[float], head: Sequence[float]) -> list[str]:
    if not base or not head:
        return []
    of_base, of_head = median(base), median(head)
    seen = f"other processes and machines took {of_head:.0%} of the cores beside head and {of_base:.0%} beside base"
    if max(of_base, of_head) > MOST_OTHERS:
        return [f"{seen} (limit {MOST_OTHERS:.0%})"]
    if abs(of_base - of_head) > MOST_OTHERS_APART:
        return [f"{seen} (they may differ by {MOST_OTHERS_APART:.0%})"]
    return []
