"""Line by line eviction for token maps in raster order: after every line the cache is cut to its budget.

Always kept are the tokens of the line just fed, the class token, and other learnt tokens before the first line; the
rest of the budget goes to the earlier tokens that the line attended to most, summed over its queries. LineAR has the
same aim, lines as the unit and attention between lines as the guide; this is an implementation of its own from the
paper's abstract and claims no agreement with the official code. The sums of attention are working memory of one number
per token and head, not counted as live cache.

PAR feeds one token of every region at a time: there a line is a line of all regions.

Shapes   R forward rows, H heads, l new tokens, T cached tokens with the new ones, D head channels
Source   the aim of LineAR (arXiv:2512.04857)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.policy import AttentionInput, CacheShape, TokenOrder
from arvbench.adapters.cache.request import budget_tokens, check_keys
from arvbench.adapters.cache.selecting import Place, SelectingCache, best
from arvbench.errors import UserError


class LinearCache(SelectingCache):
    """Hold at most `budget` tokens after a line; between two lines the tokens of the new line come on top."""

    policy = "linear"
    runs_on: ClassVar = ("lines",)
    families: ClassVar = "llamagen, par (they feed tokens line by line)"

    def __init__(self, shape: CacheShape, budget: int) -> None:
        super().__init__(shape)
        self._budget = budget

    @classmethod
    def make(cls, shape: CacheShape, options: Mapping[str, str]) -> Self:
        return cls(shape, cls._tokens_of(shape.order, options))

    @classmethod
    def check(cls, order: TokenOrder | None, options: Mapping[str, str]) -> None:
        cls._tokens_of(order, options)

    @classmethod
    def _tokens_of(cls, order: TokenOrder | None, options: Mapping[str, str]) -> int:
        order = cls.followed(order)
        check_keys(cls.policy, options, ("budget",))
        budget, least = budget_tokens(cls.policy, options, order), most_forced(order)
        if budget < least:
            raise UserError(f"cache policy linear: budget {budget} is below {least}, one line and the learnt tokens")
        return budget

    def reset(self) -> None:
        super().reset()
        self._scores: dict[int, Tensor] = {}

    def held(self, place: Place, length: int) -> int:
        return min(length, self._budget) if place.step in self.order.line_ends else length

    def attend(self, layer: int, new: AttentionInput) -> Tensor:
        step = self._steps[layer]
        self._watch(layer, new)
        out_RHlD = super().attend(layer, new)
        if step in self.order.line_ends:
            del self._scores[layer]  # the next line scores anew
        return out_RHlD

    def _watch(self, layer: int, new: AttentionInput) -> None:
        """Add the attention of the new queries to the scores (R, H, T) of the layer's tokens."""
        cached = self._stored.get((layer, self.groups(layer)[0]))
        k_RHTD = new.k_RHlD if cached is None else torch.cat((cached[0], new.k_RHlD), dim=2)
        weights_RHlT = (new.q_RHlD.float() @ k_RHTD.float().transpose(2, 3) * new.softmax_scale).softmax(dim=-1)
        received_RHT = weights_RHlT.sum(dim=2)
        if layer in self._scores:
            earlier_RHT = self._scores[layer]
            received_RHT = received_RHT + F.pad(earlier_RHT, (0, received_RHT.shape[-1] - earlier_RHT.shape[-1]))
        self._scores[layer] = received_RHT

    def select(self, place: Place, new: AttentionInput, k_RHTD: Tensor, keep: int) -> Tensor:
        at_T = torch.arange(length := k_RHTD.shape[2], device=k_RHTD.device)
        forced_T = (at_T < learnt_tokens(self.order)) | (at_T >= length - line_tokens(self.order, place.step))
        return best(self._scores[place.layer], keep, always_T=forced_T)


def learnt_tokens(order: TokenOrder) -> int:
    """Tokens fed by the first pass, of which the class is one."""
    return order.tokens[0]


def line_tokens(order: TokenOrder, step: int) -> int:
    """Tokens of the line that ends with `step`."""
    previous = max((end for end in order.line_ends if end < step), default=0)
    return order.before(step + 1) - order.before(previous + 1)


def most_forced(order: TokenOrder) -> int:
    """Tokens that no cut may drop: the learnt ones and the longest line."""
    return learnt_tokens(order) + max(line_tokens(order, step) for step in order.line_ends)
