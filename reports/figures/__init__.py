"""The figures of a report, in the order of the page: one line and one file each.

A figure is a function `draw(records) -> Drawing | None`; None says that the records hold nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arvbench.registry import Registry
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from arvbench.reports.figures.drawing import Drawing

FIGURES: Registry[Callable[[Sequence[Record]], Drawing | None]] = Registry(
    "figure",
    {
        "quality-throughput": "arvbench.reports.figures.quality_throughput:draw",
        "step-latency": "arvbench.reports.figures.step_latency:draw",
        "kv-cache": "arvbench.reports.figures.kv_cache:draw",
        "memory": "arvbench.reports.figures.memory:draw",
    },
)
