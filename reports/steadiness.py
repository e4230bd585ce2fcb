"""Words about unsteady times: by how much the calls differed, what moved on the machine meanwhile, and what did not."""

from __future__ import annotations

from collections.abc import Sequence

from arvbench.reports.cases import measured
from arvbench.reports.numbers import EN_DASH, counted_cores, significant
from arvbench.results.launches import launches_of
from arvbench.results.schema import HostLoad, Measured, Record

_AGREEING = 3
"""Warm-up calls whose times have to agree."""
_AGREEMENT = 0.05
"""Difference that they may have, relative to the shortest."""
_BUSY_CORES = 0.1
_STOLEN_CORES = 0.05
"""Cores that other processes, and other machines, take before they are named as what moved."""


def unsteady_records(records: Sequence[Record]) -> list[Record]:
    """Select the records whose times were unsteady, in any launch."""
    return [record for record, outcome in measured(records) if not outcome.warmup.steady]


def unsteady_text(records: Sequence[Record]) -> str:
    """Describe what was seen in one or several unsteady records; "" for none."""
    launches = [launch for record in records for launch in launches_of(record)]
    outcomes = [outcome for _, outcome in measured(unsteady_records(launches))]
    if not outcomes:
        return ""
    several = [f"in {len(outcomes)} of {len(launches)} launches"] if len(launches) > len(records) else []
    seen = [
        *several,
        *_calls(outcomes),
        *_moved([load for outcome in outcomes if (load := outcome.host_load) is not None]),
    ]
    return "; ".join(seen)


def _calls(outcomes: Sequence[Measured]) -> list[str]:
    """Describe the warm-up calls that were too few, that differed, and those that agreed before a trend."""
    warmups = [outcome.warmup.samples_ns for outcome in outcomes]
    short = [len(calls) for calls in warmups if len(calls) < _AGREEING]
    spreads = [_spread(calls) for calls in warmups if len(calls) >= _AGREEING]
    differing = [spread for spread in spreads if spread > _AGREEMENT]
    texts = []
    if short:
        texts.append(f"{_range(short)} warm-up call{'s' if max(short) != 1 else ''}, of {_AGREEING} that are needed")
    if differing:
        texts.append(f"the last warm-up calls differed by {_range([100 * spread for spread in differing])} %")
    if len(differing) < len(spreads):
        texts.append("times still rose or fell in the timed calls")
    return texts


def _moved(loads: Sequence[HostLoad]) -> list[str]:
    """Say what moved on the machine, the likeliest cause first, and what did not; nothing when it is unknown.

    A fixed computation also takes longer beside other work, so the processor is blamed only where that was little.
    """
    if not loads:
        return []
    others, stolen = [load.other_cores for load in loads], [load.stolen_cores for load in loads]
    cores, average = loads[0].cores, _range([load.load_average for load in loads])
    slowdowns = [load.slowdown for load in loads if load.slowdown is not None]
    busy, taken = max(others) >= _BUSY_CORES, max(stolen) >= _STOLEN_CORES
    slower = bool(slowdowns) and max(slowdowns) >= 1 + _AGREEMENT
    texts = []
    if slower:
        what = "the machine was slower at times" if busy or taken else "the processor changed its speed"
        texts.append(f"{what}: a fixed computation took up to {significant(max(slowdowns), 2)} times its shortest time")
    if taken:
        texts.append(f"the hypervisor took {_cores(stolen)} cores away")
    load = f"other processes kept {_cores(others)} of {cores} cores busy meanwhile (load average {average})"
    texts.append(load if busy else f"{load}, which is little")
    if slowdowns and not (slower or taken or busy):
        texts.append("nothing that moved on the machine was seen: the calls themselves vary")
    return texts


def _spread(calls: Sequence[int]) -> float:
    last = calls[-_AGREEING:]
    return (max(last) - min(last)) / min(last) if min(last) > 0 else 0.0


def _cores(values: Sequence[float]) -> str:
    return _range([counted_cores(value) for value in values])


def _range(values: Sequence[float]) -> str:
    low, high = (str(end) if isinstance(end, int) else significant(end, 2) for end in (min(values), max(values)))
    return low if low == high else f"{low}{EN_DASH}{high}"
