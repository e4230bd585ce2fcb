"""Cache after every step: planned bytes, live bytes and the storage held, by policy.

Units    MiB 2**20 bytes, all layers and rows
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arvbench.reports.cases import group_by, measured, model_of
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
from arvbench.results.schema import CacheStep, Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist


@dataclass(frozen=True, slots=True)
class _Panel:
    """Inputs of the plan, common to the curves of a panel."""

    model: str
    dtype: str
    batch: int
    plan: tuple[int, ...]


CacheBytes = tuple[tuple[int, int], ...]
"""Live and allocated bytes of every step."""


@dataclass(frozen=True, slots=True)
class _Curve:
    policy: str
    cache: tuple[CacheStep, ...]
    record_id: str
    """First record with it; records with equal bytes share one curve."""


def draw(records: Sequence[Record]) -> Drawing | None:
    """Draw one panel for each model, data type and batch, with the curves of every policy."""
    found: dict[_Panel, dict[tuple[str, CacheBytes], _Curve]] = {}
    for record, outcome in measured(records):
        if any(step.allocated_bytes or step.planned_bytes for step in outcome.cache):
            plan = tuple(step.planned_bytes for step in outcome.cache)
            panel = _Panel(model_of(record), record.case.dtype, record.case.batch, plan)
            curve = _Curve(plain(outcome.setup.cache_policy), outcome.cache, record.record_id)
            sizes = tuple((step.live_bytes, step.allocated_bytes) for step in outcome.cache)
            found.setdefault(panel, {}).setdefault((curve.policy, sizes), curve)
    if not found:
        return None
    every = {panel: list(curves.values()) for panel, curves in found.items()}
    curves_by_panel, left_out = first_of(every, "curves")
    policies = list(dict.fromkeys(curve.policy for curves in curves_by_panel.values() for curve in curves))
    kinds = ["planned", *(f"{label(policy)}, {kind}" for policy in policies for kind in ("live", "allocated"))]
    figure, axes = panels(len(curves_by_panel), kinds)
    handles: dict[str, Artist] = {}
    for ax, (panel, curves) in zip(axes, curves_by_panel.items(), strict=True):
        set_title(ax, label(panel.model), f"{panel.dtype}, batch {panel.batch}")
        ax.set_xlabel("Step (index)")
        ax.set_ylabel("Cache (MiB)")
        for curve in curves:
            number = policies.index(curve.policy)
            color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            steps = [step.step for step in curve.cache]
            allocated = [step.allocated_bytes / MIB for step in curve.cache]
            live = [step.live_bytes / MIB for step in curve.cache]
            name = label(curve.policy)
            handles[f"{name}, allocated"] = ax.plot(
                steps, allocated, color=color, linestyle="--", linewidth=1.2, marker=marker, markerfacecolor="none"
            )[0]
            handles[f"{name}, live"] = ax.plot(steps, live, color=color, marker=marker)[0]
        steps = [step.step for step in curves[0].cache]
        # The plan lies on top: deviations of the live curve show.
        planned = [size / MIB for size in panel.plan]
        handles["planned"] = ax.plot(steps, planned, color=MUTED, linestyle=":", linewidth=2.2, zorder=4)[0]
        ax.set_ylim(bottom=0)
    legend(figure, [handles[kind] for kind in kinds], kinds)
    return Drawing(
        figure=figure,
        title="Cache after every step",
        caption="Planned: from the schedule. Live: what is kept between steps: keys and values, or in M-VAR the "
        "mixers' state or history. Allocated: storage held for it. All layers and forward rows; 1 MiB is 1,048,576 "
        f"bytes. Where live equals the plan, the dotted line lies on the solid one.{left_out}",
        alt=f"Line plot of cache size for each step. {_peaks(curves_by_panel)}.",
        data=_data(every),
    )


def _data(curves_by_panel: Mapping[_Panel, Iterable[_Curve]]) -> Data:
    return make_data(
        (
            "Record",
            "Model",
            "Dtype",
            "Batch",
            "Policy",
            "Step (index)",
            "Planned (MiB)",
            "Live (MiB)",
            "Allocated (MiB)",
        ),
        (
            (
                *(curve.record_id, label(panel.model), panel.dtype, panel.batch, curve.policy, step.step),
                *(size / MIB for size in (step.planned_bytes, step.live_bytes, step.allocated_bytes)),
            )
            for panel, curves in curves_by_panel.items()
            for curve in curves
            for step in curve.cache
        ),
    )


def _peaks(curves_by_panel: Mapping[_Panel, Sequence[_Curve]]) -> str:
    """Describe the peaks of every curve in words."""
    pairs = [(panel, curve) for panel, curves in curves_by_panel.items() for curve in curves]
    by_model = group_by(pairs, lambda pair: (pair[0].model, pair[0].batch, pair[1].policy))
    return listed(
        f"{model}, batch {batch}, policy {policy}: live peak "
        f"{significant(max(s.live_bytes for _, c in members for s in c.cache) / MIB)} MiB, allocated peak "
        f"{significant(max(s.allocated_bytes for _, c in members for s in c.cache) / MIB)} MiB"
        for (model, batch, policy), members in by_model.items()
    )
