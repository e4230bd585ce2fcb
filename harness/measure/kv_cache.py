"""The cache after every step: what the schedule planned, what is held, what is allocated for it.

What is kept between steps is keys and values, or in M-VAR the mixers' state or history.

Units    _bytes bytes, all layers
"""

from __future__ import annotations

from arvbench.adapters.base import SilentObserver, StepOutput
from arvbench.adapters.cache.base import Cache
from arvbench.adapters.schedule import Step
from arvbench.results.schema import CacheStep


class CacheObserver(SilentObserver):
    """Reads the cache's own books at the end of every step."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.steps: list[CacheStep] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(
            CacheStep(
                step=step.index,
                planned_bytes=step.cache_bytes,
                live_bytes=self._cache.live_bytes(),
                allocated_bytes=self._cache.allocated_bytes(),
            )
        )
