"""Observers for tests: what the steps of a sampling call were, and what they computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.call import SilentObserver, StepOutput
from arvbench.adapters.schedule import Step


class Steps(SilentObserver):
    """Keeps every step and what it produced, and the cache's bytes after it."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache
        self.steps: list[Step] = []
        self.outputs: list[StepOutput] = []
        self.live: list[int] = []
        self.allocated: list[int] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(step)
        self.outputs.append(output)
        if self.cache is not None:
            self.live.append(self.cache.live_bytes())
            self.allocated.append(self.cache.allocated_bytes())

    def of(self, kind: str) -> list[StepOutput]:
        """What the steps of one kind produced."""
        return [output for step, output in zip(self.steps, self.outputs, strict=True) if step.kind == kind]

    def logits(self, name: str = "logits_pre_cfg") -> Tensor:
        """Logits of all steps, concatenated."""
        return torch.cat([getattr(output, name) for output in self.outputs], dim=1)


class CountedFlops(SilentObserver):
    """FLOPs of every step, and last of the decode, as torch counts them."""

    def __init__(self) -> None:
        self.counted: list[int] = []

    def decode_begin(self) -> None:
        self._counter = FlopCounterMode(display=False)
        self._counter.__enter__()

    def decode_end(self, decoded: Tensor) -> None:
        self._counter.__exit__(None, None, None)
        self.counted.append(self._counter.get_total_flops())

    def step_begin(self, step: Step) -> None:
        self.decode_begin()

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.decode_end(output.logits)

    @property
    def steps(self) -> list[int]:
        return self.counted[:-1]


@contextmanager
def counted_flops() -> Iterator[CountedFlops]:
    """An observer that counts; only mathematical attention is made of counted matrix products on the CPU."""
    with sdpa_kernel(SDPBackend.MATH):
        yield CountedFlops()
