"""Cache policies compared twice: at the same batch, and in the same memory, where a smaller cache buys a larger batch.

The row of the same memory comes from the records, in this order: the largest batch of a capacity search under the
limit that the group's searches share; or the largest batch whose tensors, counted in a traced call, take no more than
those of the exact policy at the same batch. Without either, a policy has the one row alone.

Units    _bytes bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from arvbench.results.capacity import Capacity
from arvbench.results.comparison import comparison_key, hardware_class
from arvbench.results.memory import Memory
from arvbench.results.schema import Measured, Record
from arvbench.results.statistics import Estimate, find_timing, images_per_second
from arvbench.results.timing import Timing

_YARDSTICKS: Final = ("static", "grow", "state", "none")
"""Exact policies whose memory is the measure, the first that a group has."""

Counted = Literal["tensors", "process"]


class Point(NamedTuple):
    """One policy at one batch."""

    record: Record
    """Where the numbers stand."""
    batch: int
    live_bytes: int
    """Live cache at its peak, of the whole batch."""
    memory_bytes: int | None
    """All tensors of a call with the weights, or what the process held (`Comparison.counted`); None: not counted."""
    speed: Estimate | None
    """Images per second."""

    @property
    def live_per_image(self) -> float:
        return self.live_bytes / self.batch


class Contender(NamedTuple):
    """One policy of a comparison."""

    policy: str
    same_batch: Point
    same_memory: Point | None


class Comparison(NamedTuple):
    """Policies of one model under equal settings, on equal hardware."""

    batch: int
    limit_bytes: int | None
    """Memory of every point of the same memory; None where no policy has one."""
    counted: Counted | None
    """"tensors": weights and the most that a call holds beside them. "process": what the limit of a search is of."""
    contenders: tuple[Contender, ...]
    """The yardstick first: an exact policy, where there is one."""


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Return a comparison for each group of records that differ in cache policy and batch alone.

    A group with one policy at one batch and no search compares nothing, and is left out.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if isinstance(record.outcome, Measured):
            groups.setdefault(_alike(record), []).append(record)
    made = [_compare(members) for members in groups.values()]
    return [one for one in made if len(one.contenders) > 1 or one.contenders[0].same_memory is not None]


def _alike(record: Record) -> str:
    """Return what is equal in cases that differ in cache policy, batch, or what is asked of them."""
    return f"{comparison_key(record, cache=None, batch=1)} {hardware_class(record.environment)}"


def _compare(records: Sequence[Record]) -> Comparison:
    by_policy: dict[str, list[Record]] = {}
    for record in records:
        by_policy.setdefault(_measured(record).setup.cache_policy, []).append(record)
    yardstick = next((name for name in _YARDSTICKS if name in by_policy), next(iter(by_policy)))
    by_policy = {yardstick: by_policy[yardstick]} | by_policy
    first = by_policy[yardstick]
    batch = min(record.case.batch for record in first)
    limit, counted = _limit(first, batch)
    contenders = []
    for policy, members in by_policy.items():
        at_batch = [record for record in members if record.case.batch == batch]
        if at_batch:
            # The one with quality numbers, if any: they belong to the policy, and the row shows them.
            chosen = max(at_batch, key=lambda record: bool(_measured(record).quality))
            same = _point(chosen, counted)
            contenders.append(Contender(policy, same, _within(members, limit, counted)))
    return Comparison(batch, limit, counted, tuple(contenders))


def _measured(record: Record) -> Measured:
    assert isinstance(record.outcome, Measured), "`comparisons` keeps no other"
    return record.outcome


def _limit(records: Sequence[Record], batch: int) -> tuple[int | None, Counted | None]:
    """Return the memory that all policies may take, and how it is counted: by a search, else by traced tensors."""
    for record in records:
        capacity = _measured(record).capacity
        if capacity is not None and capacity.limit_bytes is not None:
            return capacity.limit_bytes, "process"
    traced = [tensor_bytes(_measured(record).memory) for record in records if record.case.batch == batch]
    limit = max((size for size in traced if size is not None), default=None)
    return limit, None if limit is None else "tensors"


def tensor_bytes(memory: Memory) -> int | None:
    """Return the bytes of weights and of the most that a call held beside them; None for a call that was not traced."""
    if memory.tensors is None:
        return None
    return memory.weights_bytes + max(memory.tensors.tokens_peak_bytes, memory.tensors.decode_peak_bytes)


def _point(record: Record, counted: Counted | None) -> Point:
    outcome = _measured(record)
    timing = find_timing(outcome, "images")
    memory = outcome.memory
    held = memory.peak_bytes if memory.source == "process-rss" else memory.reserved_bytes
    return Point(
        record=record,
        batch=record.case.batch,
        live_bytes=memory.cache_live_bytes,
        memory_bytes=held if counted == "process" else tensor_bytes(memory),
        speed=None if timing is None else images_per_second(timing),
    )


def _within(records: Sequence[Record], limit: int | None, counted: Counted | None) -> Point | None:
    """Return the largest batch of a policy within the limit."""
    if limit is None:
        return None
    if counted == "process":
        found = [
            point
            for record in records
            if (capacity := _measured(record).capacity) is not None and capacity.limit_bytes == limit
            if (point := _largest(record, capacity)) is not None
        ]
    else:
        points = [_point(record, counted) for record in records]
        found = [point for point in points if point.memory_bytes is not None and point.memory_bytes <= limit]
    return max(found, key=lambda point: point.batch, default=None)


def _largest(record: Record, capacity: Capacity) -> Point | None:
    """Return the point of the largest batch that a search ran."""
    timing = find_timing(_measured(record), "images")
    probe = capacity.fitting[-1] if capacity.fitting else None
    if probe is None or probe.cache_live_bytes is None:
        return None
    taken = None
    if timing is not None and probe.samples_ns:
        taken = Timing(
            scope="images", samples_ns=probe.samples_ns, images=probe.batch, forward_rows=0, clock=timing.clock
        )
    speed = None if taken is None else images_per_second(taken)
    return Point(record, probe.batch, probe.cache_live_bytes, probe.held_bytes, speed)
