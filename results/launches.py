"""Launches of one case, read as one record.

Noise between two starts of a program is usually larger than between two calls of one, and other calls cannot show it:
the unit of a time is the launch. A merged record keeps the samples of its launches apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from arvbench.results.schema import Failed, Measured, Record, Timing


class LaunchedTiming(Timing):
    """Raw times of one scope in several launches; `samples_ns` are those of all, in order."""

    launches_ns: tuple[tuple[int, ...], ...]


class MergedRecord(Record):
    """Several launches of one case as one record. It is read, and never written.

    What depends on the launch is of all: times by launch, the memory of the launch that held most, the warm-up of the
    first unsteady launch. Everything else is the first launch's.
    """

    launches: tuple[Record, ...]


def launches_of(record: Record) -> tuple[Record, ...]:
    """Return the records of the launches behind a record; the record itself for a single one."""
    return record.launches if isinstance(record, MergedRecord) else (record,)


def several_launches(records: Iterable[Record]) -> bool:
    """Return whether any of the records stands for more than one launch."""
    return any(len(launches_of(record)) > 1 for record in records)


def samples_by_launch(timing: Timing) -> tuple[tuple[int, ...], ...]:
    """Return the samples of a timing in ns, by launch."""
    return timing.launches_ns if isinstance(timing, LaunchedTiming) else (timing.samples_ns,)


def case_key(record: Record) -> tuple[object, ...]:
    """Return what tells the cases of a file apart: the name omits weights, threads and the processor with its cores."""
    where, case = record.environment, record.case
    processor = (where.cpu, where.cores) if where.gpu is None else (where.gpu.name, 1)
    return (record.suite, record.case_id, case.weights, case.threads, *processor)


def merge_launches(records: Iterable[Record]) -> list[Record]:
    """Merge the launches of every case into one record each, in the order of the cases.

    `records` are of one run, or the newest of one file. Launches that ended differently, or failed for different
    reasons, stay apart, so that none is lost; so do two records of one launch.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    seen: Counter[tuple[object, ...]] = Counter()
    for record in records:
        case = case_key(record)
        seen[case, record.launch] += 1
        groups.setdefault((case, _end(record), seen[case, record.launch]), []).append(record)
    return [_merged(sorted(launches, key=lambda record: record.launch)) for launches in groups.values()]


def _end(record: Record) -> tuple[str, str]:
    """Return how a launch ended, with the reason of a failure."""
    reason = record.outcome.reason if isinstance(record.outcome, Failed) else ""
    return (record.status, reason)


def _merged(launches: Sequence[Record]) -> Record:
    first = launches[0]
    if len(launches) == 1:
        return first
    outcomes = [record.outcome for record in launches if isinstance(record.outcome, Measured)]
    most = max(record.case.launches for record in launches)
    fields = {name: getattr(first, name) for name in Record.model_fields}
    return MergedRecord.model_construct(
        **fields
        | {
            "started": min(record.started for record in launches),
            "finished": max(record.finished for record in launches),
            "case": first.case.model_copy(update={"launches": most}),
            "outcome": _merged_outcome(outcomes) if outcomes else first.outcome,
        },
        launches=tuple(launches),
    )


def _merged_outcome(outcomes: Sequence[Measured]) -> Measured:
    first = outcomes[0]
    unsteady = next((outcome for outcome in outcomes if not outcome.warmup.steady), first)
    return first.model_copy(
        update={
            "timings": tuple(_merged_timing(timing.scope, outcomes) for timing in first.timings),
            "warmup": unsteady.warmup,
            "host_load": unsteady.host_load,
            "memory": max(outcomes, key=lambda outcome: outcome.memory.peak_bytes or 0).memory,
        }
    )


def _merged_timing(scope: str, outcomes: Sequence[Measured]) -> Timing:
    timings = [timing for outcome in outcomes for timing in outcome.timings if timing.scope == scope]
    by_launch = tuple(timing.samples_ns for timing in timings if timing.samples_ns)
    fields = {name: getattr(timings[0], name) for name in Timing.model_fields}
    return LaunchedTiming.model_construct(
        **fields | {"samples_ns": tuple(ns for samples in by_launch for ns in samples)}, launches_ns=by_launch
    )
