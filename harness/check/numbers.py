"""From the records of one side to its gated numbers.

Times     images, tokens and decode, and the steps in thirds, which show a change of few steps that the loop hides and
          are few also for a model of 576 steps. A launch counts as the median of its calls
Memory    peak of the process (CPU: of the resident set, which varies) or of the allocator (CUDA: exact, and then also
          the peaks of the loop and of decode), and the weights
Cache     live and allocated bytes at their peak
Quality   correctness of the backend, equal tokens in float32, and the metrics of `GATED_METRICS`, a value per run seed

Units     _ns nanoseconds, _bytes bytes
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, Final

from arvbench.harness.check.gated import Judgement, Key, Kind, Series
from arvbench.results.comparison import comparison_key
from arvbench.results.metrics import label_of
from arvbench.results.schema import Failed, Incorrect, Measured, Quality, Record, Timing

GATED_METRICS: Final = ("fid", "reconstruction-fid", "label-accuracy")
"""KID is not among them: it may be zero or negative, so that no relative change of it has a meaning."""
FLOORS_NS: Final = {"wall": 20_000.0, "cuda-event": 5_000.0}
"""Clock -> change of one time that is not counted: about ten times the scatter of the wall clock, and ten times the
resolution of an event (0.5 us). A sum of steps has the floor of each."""
RESIDENT_FLOOR_BYTES: Final = 4 * 2**20
"""Change of a resident set that is not counted: arenas and pages come and go in such portions."""
_THIRDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SideNumbers:
    """Gated numbers of one side."""

    series: tuple[Series, ...]
    faults: tuple[str, ...]
    """Launches and cases that have no numbers, one sentence each: nothing passes by absence."""


def gated_numbers(records: Iterable[Record], *, side: str, cases: Sequence[str] = (), run_id: str = "") -> SideNumbers:
    """Return the gated numbers of one side, by case in the order of its first record.

    `side` names it in faults. `cases` are the names that must be there. A record whose id does not begin with `run_id`
    is of another run, which is a fault. Of two records of one launch, the last counts.
    """
    by_case: dict[str, dict[int, Record]] = {name: {} for name in cases}
    faults = []
    for record in records:
        if record.record_id.startswith(run_id):
            by_case.setdefault(record.case_id, {})[record.launch] = record
        else:
            faults.append(f"{side} has a record of another run: {record.record_id} of {record.case_id}.")
    series: list[Series] = []
    for case, launches in by_case.items():
        if not launches:
            faults.append(f"{side} has no record of {case}.")
        faults += [fault for record in launches.values() if (fault := _fault(side, record))]
        series += _case_series(case, list(launches.values()))
    return SideNumbers(series=tuple(series), faults=tuple(faults))


def other_cases(base: Iterable[Record], head: Iterable[Record]) -> tuple[str, ...]:
    """Return where cases of one name are not the same case on both sides, one sentence each."""
    keys = [{record.case_id: key for record in side if (key := comparison_key(record))} for side in (base, head)]
    found = []
    for case, key in keys[0].items():
        if (other := keys[1].get(case, key)) != key:
            found += [f"{case}: {text}." for text in _differences(json.loads(key), json.loads(other))]
    return tuple(found)


def calibrated(series: Iterable[Series], scatter: Mapping[Key, float]) -> tuple[Series, ...]:
    """Return the numbers with the scatter between launches that a calibration found for them."""
    return tuple(replace(one, calibrated=scatter.get(one.key)) for one in series)


def _differences(base: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*base, *head)):
        before, after = base.get(name), head.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after)
        elif before != after:
            yield f"{name} is {before} in base and {after} in head"


def _fault(side: str, record: Record) -> str | None:
    outcome, where = record.outcome, f"{side}, {record.case_id}, launch {record.launch}"
    if isinstance(outcome, Failed):
        return f"{where}: {outcome.status}, {outcome.reason}"
    if isinstance(outcome, Incorrect):
        return f"{where}: the backend disagrees with its judge, so that nothing was timed."
    return None


def _case_series(case: str, records: Sequence[Record]) -> Iterator[Series]:
    """Yield the numbers of one case from the records of its launches."""
    checked = [record for record in records if isinstance(record.outcome, Measured | Incorrect)]
    measured = [record.outcome for record in records if isinstance(record.outcome, Measured)]
    if checked:
        yield from _correctness(case, checked)
    if measured:
        yield from _times(case, measured)
        yield from _memory(case, measured)
        yield from _quality(case, [record for record in records if isinstance(record.outcome, Measured)])


def _times(case: str, launches: Sequence[Measured]) -> Iterator[Series]:
    """Yield a number per scope; one that a launch lacks has fewer values."""
    scopes = [{timing.scope: timing for timing in launch.timings if timing.samples_ns} for launch in launches]
    for scope in ("images", "tokens", "decode"):
        found = [timings[scope] for timings in scopes if scope in timings]
        if found:
            yield _time(case, scope, [median(timing.samples_ns) for timing in found], found[0], readings=1)
    steps = [scope for scope in scopes[0] if scope.startswith("step[")]
    for begin, end in _parts(len(steps)):
        part = steps[begin:end]
        # Steps with unequal counts of calls have no sum: the launch lacks this number.
        whole = [t for t in scopes if t.keys() >= set(part) and len({len(t[step].samples_ns) for step in part}) == 1]
        sums = [median(map(sum, zip(*(timings[step].samples_ns for step in part), strict=True))) for timings in whole]
        yield _time(case, f"steps[{begin}:{end}]", sums, scopes[0][part[0]], readings=len(part))


def _parts(steps: int) -> list[tuple[int, int]]:
    """Divide steps into thirds of nearly equal counts; fewer than 6 are not divided, their sum is `tokens`."""
    if steps < 2 * _THIRDS:
        return []
    ends = [round(steps * part / _THIRDS) for part in range(_THIRDS + 1)]
    return list(pairwise(ends))


def _time(case: str, number: str, values: Sequence[float], timing: Timing, *, readings: int) -> Series:
    return Series(
        case=case,
        number=number,
        kind="time",
        unit="ns",
        basis=f"{timing.images} images per call, {timing.clock} clock",
        values=tuple(values),
        floor=FLOORS_NS[timing.clock] * readings,
    )


def _memory(case: str, launches: Sequence[Measured]) -> Iterator[Series]:
    first = launches[0].memory
    on_device = first.source == "cuda-allocator"
    numbers: dict[str, tuple[Kind, Judgement]] = {
        "peak_bytes": ("memory", Judgement.EXACT if on_device else Judgement.LAUNCHES),
        "weights_bytes": ("memory", Judgement.EXACT),
    }
    if on_device:
        numbers |= dict.fromkeys(("tokens_peak_bytes", "decode_peak_bytes"), ("memory", Judgement.EXACT))
    if first.cache_planned_bytes:
        numbers |= dict.fromkeys(("cache_live_bytes", "cache_allocated_bytes"), ("cache", Judgement.EXACT))
    for number, (kind, judgement) in numbers.items():
        values = [getattr(launch.memory, number) for launch in launches]
        known = tuple(float(value) for value in values if value is not None)
        if known:
            yield Series(
                case=case,
                number=number,
                kind=kind,
                unit="bytes",
                basis=first.source,
                values=known,
                judgement=judgement,
                floor=0.0 if judgement is Judgement.EXACT else float(RESIDENT_FLOOR_BYTES),
            )


def _correctness(case: str, records: Sequence[Record]) -> Iterator[Series]:
    """Yield the share of launches with a correct backend, and in float32 the tokens that equal the judge's."""
    checks = [record.outcome.correctness for record in records if isinstance(record.outcome, Measured | Incorrect)]
    share = partial(Series, case=case, kind="quality", unit="share", basis=f"{checks[0].images} images")
    exact = partial(share, judgement=Judgement.EXACT, lower_is_better=False, may_be_zero=True)
    yield exact(number="correct", values=tuple(float(check.passed) for check in checks))
    equal = [check.equal_tokens for check in checks if check.equal_tokens is not None]
    if records[0].case.dtype == "float32" and equal:
        yield exact(number="equal tokens", values=tuple(equal))


def _quality(case: str, records: Sequence[Record]) -> Iterator[Series]:
    """Yield a number per metric and protocol, with a value for each run seed, in the order of the seeds."""
    found: dict[str, dict[int, Quality]] = {}
    for record in records:
        seed = record.case.quality.seed if record.case.quality else 0
        for quality in record.outcome.quality if isinstance(record.outcome, Measured) else ():
            if quality.metric in GATED_METRICS:
                name = f"{quality.metric} {quality.protocol_name or quality.protocol_id}"
                found.setdefault(name, {})[seed] = quality
    for name, by_seed in found.items():
        seeds = sorted(by_seed)
        first = by_seed[seeds[0]]
        yield Series(
            case=case,
            number=name,
            kind="quality",
            unit="",
            basis=f"protocol {first.protocol_id}, {first.n_samples} samples, run seeds {_ranges(seeds)}",
            values=tuple(by_seed[seed].value for seed in seeds),
            judgement=Judgement.SEEDS,
            lower_is_better=label_of(first.metric).better != "higher",
        )


def _ranges(seeds: Sequence[int]) -> str:
    """Write sorted numbers; runs of neighbours as 0-4."""
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges)
