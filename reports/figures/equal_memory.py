"""Quality, or drift where there is none, and both throughputs of every cache policy against its live bytes per image.

Units    MiB 2**20 bytes; FID without unit, lower is better; tokens in per cent; throughput images per second
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from arvbench.reports.cases import arithmetic, group_by, hardware, has_random_weights, model_of
from arvbench.reports.data import Data, make_data
from arvbench.reports.figures.drawing import (
    MARKERS,
    MUTED,
    SERIES,
    Drawing,
    first_of,
    label,
    legend,
    listed,
    panels,
    set_title,
)
from arvbench.reports.numbers import MIB, plain, significant
from arvbench.reports.tables.equal_memory import Row, agreement, equal_memory_rows, fid_of
from arvbench.results.equal_memory import Comparison, Point
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_HEADROOM = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    """A point of the left panel, and one or two of the right one."""

    name: str
    comparison: Comparison
    good: float
    """FID or percentage of equal tokens, as `_uses_fid` says of the comparison."""
    same_batch: Point
    same_memory: Point | None

    @property
    def mib(self) -> float:
        return self.same_batch.live_per_image / MIB


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw two panels for each comparison: what a policy costs in quality, and what it gains in speed."""
    from matplotlib.ticker import MaxNLocator

    found = _policies(records)
    by_comparison = group_by(found, lambda policy: id(policy.comparison))
    groups, left_out = first_of(by_comparison, "points", panels_each=2, cases=len(records))
    if not groups:
        return None
    drawn = [policy for members in groups.values() for policy in members]
    names = list(dict.fromkeys(policy.name for policy in drawn))
    figure, axes = panels(2 * len(groups), names)
    handles: dict[str, Artist] = {}
    for place, members in enumerate(groups.values()):
        left, right = axes[2 * place : 2 * place + 2]
        _label_axes(left, right, members[0].comparison)
        for policy in members:
            handles[policy.name] = _draw_policy(left, right, policy, names.index(policy.name))
        for ax in (left, right):
            ax.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))  # a number at the end would reach out
            ax.set_xlim(0, _HEADROOM * max(policy.mib for policy in members) or 1)
        left.set_ylim(0, _HEADROOM * max(policy.good for policy in members) or 1)
        points = [point for policy in members for point in (policy.same_batch, policy.same_memory)]
        fastest = max((point.speed.value for point in points if point and point.speed), default=0.0)
        right.set_ylim(0, _HEADROOM * fastest or 1)
    legend(figure, [handles[name] for name in names], names)
    return Drawing(
        figure=figure,
        title="Quality and throughput against live cache",
        caption="Left: FID of the policy, or, without one, the share of tokens that it draws as the static cache does. "
        "Right: hollow, the throughput at the same batch; filled, joined by a line, at the batch that the same memory "
        f"holds. Live cache per image at its peak, both guidance halves.{left_out}",
        alt=f"Scatter plot of quality and of throughput against live cache per image. {listed(map(_in_words, drawn))}.",
        data=_data(found),
    )


def _data(policies: Sequence[_Policy]) -> Data:
    return make_data(
        (
            *("Record", "Model", "Policy", "FID, lower is better", "Tokens as static (%)", "At equal", "Batch"),
            *("Live cache per image (MiB)", "Throughput (images/s)", "Throughput (images/s), low"),
            "Throughput (images/s), high",
        ),
        (
            (
                *(point.record.record_id, label(model_of(point.record)), policy.name),
                *((policy.good, None) if _uses_fid(policy.comparison) else (None, policy.good)),
                *("batch" if point is policy.same_batch else "memory", point.batch, point.live_per_image / MIB),
                *((point.speed.value, point.speed.low, point.speed.high) if point.speed else (None, None, None)),
            )
            for policy in policies
            for point in (policy.same_batch, policy.same_memory)
            if point is not None
        ),
    )


def _policies(records: Sequence[Record]) -> list[_Policy]:
    made = list[_Policy]()
    for rows in group_by(equal_memory_rows(records), lambda row: id(row.contender)).values():
        row = rows[0]
        good = _good(row)
        if good is None or not isfinite(good) or row.point.live_bytes == 0:
            continue
        same_batch, same_memory = row.contender.same_batch, row.contender.same_memory
        name = label(plain(row.contender.policy))
        made.append(
            _Policy(name=name, comparison=row.comparison, good=good, same_batch=same_batch, same_memory=same_memory)
        )
    return made


def _uses_fid(comparison: Comparison) -> bool:
    """Return whether all policies have an FID; then drift is left to the table."""
    records = [contender.same_batch.record for contender in comparison.contenders]
    return all(fid_of(record) is not None and not has_random_weights(record) for record in records)


def _good(row: Row) -> float | None:
    if _uses_fid(row.comparison):
        return fid_of(row.record)
    share = agreement(row.record)
    return None if share is None else 100 * share


def _label_axes(left: Axes, right: Axes, comparison: Comparison) -> None:
    record = comparison.contenders[0].same_batch.record
    name = label(model_of(record), random=has_random_weights(record))
    set_title(left, name, f"{label(hardware(record))}, {label(arithmetic(record))}")
    memory = "" if comparison.limit_bytes is None else f", or within {significant(comparison.limit_bytes / MIB)} MiB"
    set_title(right, name, f"batch {comparison.batch}{memory}")
    left.set_ylabel("FID (no unit, lower is better)" if _uses_fid(comparison) else "Tokens as static (%)")
    right.set_ylabel("Throughput (images/s)")
    for ax in (left, right):
        ax.set_xlabel("Live cache per image (MiB)")


def _draw_policy(left: Axes, right: Axes, policy: _Policy, number: int) -> Artist:
    color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
    handle = left.plot([policy.mib], [policy.good], marker, color=color, markersize=7)[0]
    ends = [(point, point.speed) for point in (policy.same_batch, policy.same_memory) if point and point.speed]
    if len(ends) == 2:
        xs = [point.live_per_image / MIB for point, _ in ends]
        right.plot(xs, [speed.value for _, speed in ends], color=MUTED, linewidth=1.0, zorder=1)
    for point, speed in ends:
        fill = "none" if point is policy.same_batch else color
        at = [point.live_per_image / MIB], [speed.value]
        right.plot(*at, marker, color=color, markersize=7, markerfacecolor=fill, linestyle="none")
    return handle


def _in_words(policy: _Policy) -> str:
    what = f"FID {significant(policy.good)}" if _uses_fid(policy.comparison) else f"{significant(policy.good)} % tokens"
    speeds = [
        f"{significant(point.speed.value)} images/s at batch {point.batch}"
        for point in (policy.same_batch, policy.same_memory)
        if point is not None and point.speed is not None
    ]
    return f"{policy.name}: {significant(policy.mib)} MiB per image, {what}, {', '.join(speeds)}"
