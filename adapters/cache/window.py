"""Keep the tokens of the last steps: in next-scale models the last scales, in token-grid models the last passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import AttentionInput, CacheShape, TokenOrder
from arvbench.adapters.cache.request import budget_steps, check_keys
from arvbench.adapters.cache.selecting import Place, SelectingCache


class WindowCache(SelectingCache):
    """Hold the tokens of the last `budget` steps; a step reads them and its own."""

    policy = "window"

    def __init__(self, shape: CacheShape, steps: int) -> None:
        super().__init__(shape)
        self._kept_steps = steps

    @classmethod
    def make(cls, shape: CacheShape, options: Mapping[str, str]) -> Self:
        return cls(shape, cls._steps_of(shape.order, options))

    @classmethod
    def check(cls, order: TokenOrder | None, options: Mapping[str, str]) -> None:
        cls._steps_of(order, options)

    @classmethod
    def _steps_of(cls, order: TokenOrder | None, options: Mapping[str, str]) -> int:
        order = cls.followed(order)
        check_keys(cls.policy, options, ("budget",))
        return budget_steps(cls.policy, options, order)

    def held(self, place: Place, length: int) -> int:
        return self.order.before(place.step + 1) - self.order.before(max(0, place.step + 1 - self._kept_steps))

    def select(self, place: Place, new: AttentionInput, k_RHTD: Tensor, keep: int) -> Tensor:
        length = k_RHTD.shape[2]
        return torch.arange(length - keep, length, device=k_RHTD.device)
