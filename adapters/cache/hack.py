"""HACK: heads of two kinds with budgets of their own. From the paper's text, not from official code.

The official code could not be had, so agreement with it is not claimed: this follows the paper's description, with the
choices stated here. A contextual head, whose queries all look at the same few keys, keeps the keys with the largest
attention. A structural head keeps the first two scales and the current one always, and the rest of its budget of the
keys between. Attention is summed over at most 32 queries of the scale, spread uniformly. The cut follows a scale's
attention, and never the last one's; dropped keys are not merged into kept ones.

A head is contextual when the calibration file says so (`calibrate.py`: the lowest variance of attention over queries);
without a file all heads are structural. A contextual head has a quarter of the mean budget, our choice, and
the structural heads share the rest: B = alpha B_C + (1 - alpha) B_S over all heads of the model.

Shapes   R forward rows, H heads, l new tokens, T cached tokens with the new ones, D head channels, o observed queries
Source   HACK (arXiv:2504.09261), second-hand
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from arvbench.adapters.cache.calibration import read_calibration
from arvbench.adapters.cache.policy import AttentionInput, CacheShape, TokenOrder
from arvbench.adapters.cache.request import budget_tokens, check_keys, whole_number
from arvbench.adapters.cache.selecting import Place, SelectingCache, best

OBSERVED = 32
"""Queries of a scale that choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HackOptions:
    """Heads and budgets, in tokens."""

    contextual: tuple[tuple[int, ...], ...]
    """Contextual heads of every layer."""
    contextual_budget: int
    structural_budget: int
    first: int
    """Tokens that a structural head always keeps, from the first on."""
    observed: int = OBSERVED


class HackCache(SelectingCache):
    """Budgets by kind of head; tokens chosen by their attention."""

    policy = "hack"
    runs_on: ClassVar = ("scales",)
    families: ClassVar = "var, flexvar, hmar (with kv_cache=true)"

    def __init__(self, shape: CacheShape, options: HackOptions) -> None:
        super().__init__(shape)
        self._options = options

    @classmethod
    def make(cls, shape: CacheShape, options: Mapping[str, str]) -> Self:
        return cls(shape, cls._read(cls.followed(shape.order), options, (shape.layers, shape.heads)))

    @classmethod
    def check(cls, order: TokenOrder | None, options: Mapping[str, str]) -> None:
        cls._read(cls.followed(order), options, None)

    @classmethod
    def _read(cls, order: TokenOrder, options: Mapping[str, str], sizes: tuple[int, int] | None) -> HackOptions:
        """Read the options; `sizes` (layers, heads) None checks them alone."""
        check_keys(cls.policy, options, ("budget", "calibration", "observed"))
        budget = budget_tokens(cls.policy, options, order)
        layers, heads = sizes or (1, 1)
        contextual: tuple[tuple[int, ...], ...] = ((),) * layers
        if "calibration" in options:
            calibration = read_calibration(options["calibration"], order, sizes and sizes[0], sizes and sizes[1])
            contextual, layers, heads = calibration.contextual, calibration.layers, calibration.heads
        whole, count = layers * heads, sum(map(len, contextual))
        few = max(1, budget // 4) if count < whole else budget
        full = budget >= sum(order.tokens)
        return HackOptions(
            contextual=contextual,
            contextual_budget=budget if full else few,
            structural_budget=budget if full or count == whole else (budget * whole - few * count) // (whole - count),
            first=order.before(2),
            observed=whole_number(cls.policy, options, "observed", OBSERVED),
        )

    def groups(self, layer: int) -> Sequence[tuple[int, ...]]:
        contextual = self._options.contextual[layer]
        structural = tuple(head for head in range(self.shape.heads) if head not in contextual)
        return [group for group in (contextual, structural) if group]

    def held(self, place: Place, length: int) -> int:
        if place.step == len(self.order.steps) - 1:
            return length
        if self._contextual(place):
            return min(length, self._options.contextual_budget)
        forced = int(self._forced(place, length).sum())
        return min(length, max(self._options.structural_budget, forced))

    def _contextual(self, place: Place) -> bool:
        return place.heads == self._options.contextual[place.layer]

    def _forced(self, place: Place, length: int) -> Tensor:
        """Tokens (T,) bool that a structural head always keeps: the first ones, and those of the scale."""
        at_T = torch.arange(length)
        return (at_T < self._options.first) | (at_T >= length - self.order.tokens[place.step])

    def select(self, place: Place, new: AttentionInput, k_RHTD: Tensor, keep: int) -> Tensor:
        q_RHoD = new.q_RHlD[:, :, observed_queries(new.q_RHlD.shape[2], self._options.observed)]
        scores_RHT = attention_weights(q_RHoD, k_RHTD, new.softmax_scale).sum(dim=2)
        if self._contextual(place):
            return best(scores_RHT, keep)
        forced_T = self._forced(place, k_RHTD.shape[2]).to(k_RHTD.device)
        return best(scores_RHT, keep, always_T=forced_T)


def observed_queries(tokens: int, most: int) -> list[int]:
    """Indices of at most `most` queries of a scale, spread uniformly."""
    return list(range(tokens)) if tokens <= most else [i * tokens // most for i in range(most)]


def attention_weights(q_RHlD: Tensor, k_RHTD: Tensor, scale: float, bias_llT: Tensor | None = None) -> Tensor:
    """Softmax attention (R, H, l, T), fp32."""
    scores_RHlT = q_RHlD.float() @ k_RHTD.float().transpose(2, 3) * scale
    return (scores_RHlT if bias_llT is None else scores_RHlT + bias_llT).softmax(dim=-1)


def column_variance(weights_RHlT: Tensor) -> Tensor:
    """Variance of attention over queries, summed over keys, (R, H): low where all queries look at the same keys."""
    return weights_RHlT.var(dim=2, correction=0).sum(dim=-1)
