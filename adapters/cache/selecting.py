"""Caches that forget: after a layer's attention, some of its tokens are cut.

A policy says how many tokens stay, which depends on the step alone, and chooses them by the queries of the step. Every
row and head chooses for itself. Kept tokens stay in the order in which they were fed. Where two tokens score alike, the
one fed first stays, on every device: the order of ties is not left to a library.

Shapes   R forward rows, H heads of one group, l new tokens, T cached tokens with the new ones, D head channels,
         n tokens kept
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.policy import AttentionInput, CachePlan, CacheShape, KVCache, TokenOrder
from arvbench.errors import ContractError, UserError


class Place(NamedTuple):
    """The heads of one layer at one step that keep equal numbers of tokens."""

    step: int
    layer: int
    heads: tuple[int, ...]


class SelectingCache(KVCache):
    """Cut the tokens of a layer after its attention. Subclasses say how many stay (`held`) and which (`select`)."""

    lossy: ClassVar[bool] = True
    runs_on: ClassVar[tuple[str, ...]] = ("scales", "lines", "other")
    """Kinds of `TokenOrder` that the policy can follow."""
    families: ClassVar[str] = "var, flexvar, hmar (with kv_cache=true), llamagen, par, nar, detailflow, dar"
    """Families with such an order, for the message of an error."""

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)
        assert shape.order is not None, "`check` refuses families without an order"
        self.order: TokenOrder = shape.order
        self.reset()

    @classmethod
    def check(cls, order: TokenOrder | None, options: Mapping[str, str]) -> None:
        """Raise UserError for options that do not fit, or an order that the policy cannot follow."""
        cls.followed(order)

    @classmethod
    def followed(cls, order: TokenOrder | None) -> TokenOrder:
        """Return `order`. Raises UserError, with the families that can, where the policy cannot follow it."""
        if order is None or order.kind not in cls.runs_on:
            raise UserError(f"cache policy {cls.policy} does not run on this family; it runs on: {cls.families}")
        return order

    @classmethod
    def plan(cls, shape: CacheShape, options: Mapping[str, str]) -> CachePlan:
        cache = cls.make(shape, options)
        steps: list[tuple[int, ...]] = []
        lengths = {(layer, heads): 0 for layer in range(shape.layers) for heads in cache.groups(layer)}
        for step, new in enumerate(cache.order.tokens):
            for layer, heads in lengths:
                length = lengths[layer, heads] + new
                lengths[layer, heads] = min(length, cache.held(Place(step, layer, heads), length))
            totals = [0] * shape.layers
            for (layer, heads), length in lengths.items():
                totals[layer] += len(heads) * length
            steps.append(tuple(totals))
        return CachePlan(tuple(steps), shape.entry_bytes)

    def groups(self, layer: int) -> Sequence[tuple[int, ...]]:
        """Heads of `layer` that keep equal numbers of tokens; by default all of them."""
        return (tuple(range(self.shape.heads)),)

    @abstractmethod
    def held(self, place: Place, length: int) -> int:
        """Tokens that stay of `length`, the new ones included."""

    @abstractmethod
    def select(self, place: Place, new: AttentionInput, k_RHTD: Tensor, keep: int) -> Tensor:
        """Choose `keep` of the T tokens: ascending indices (R, H, n), or (n,) for all rows and heads."""

    def more(self, place: Place, new: AttentionInput) -> tuple[Tensor, ...]:
        """Return what else to keep of each new token, (R, H, l, ...); nothing here."""
        return ()

    def attend(self, layer: int, new: AttentionInput) -> Tensor:
        step = self._steps[layer]
        self._steps[layer] += 1
        groups = self.groups(layer)
        if len(groups) == 1:
            return self._attend_group(Place(step, layer, groups[0]), new)
        out_RHlD = torch.empty_like(new.q_RHlD)
        for heads in groups:
            index = list(heads)
            part = new._replace(q_RHlD=new.q_RHlD[:, index], k_RHlD=new.k_RHlD[:, index], v_RHlD=new.v_RHlD[:, index])
            out_RHlD[:, index] = self._attend_group(Place(step, layer, heads), part)
        return out_RHlD

    def _attend_group(self, place: Place, new: AttentionInput) -> Tensor:
        key = (place.layer, place.heads)
        fresh = (new.k_RHlD, new.v_RHlD, *self.more(place, new))
        cached = self._stored.get(key)
        # Views of the fused projection would keep all of it alive.
        stored = tuple(
            t.contiguous().clone() if cached is None else torch.cat((cached[i], t), dim=2) for i, t in enumerate(fresh)
        )
        out = F.scaled_dot_product_attention(new.q_RHlD, stored[0], stored[1], attn_mask=new.bias_llT, scale=new.scale)
        length = stored[0].shape[2]
        if (keep := self.held(place, length)) < length:
            kept = self.select(place, new, stored[0], keep)
            index_RHn = kept.expand(*stored[0].shape[:2], keep)
            stored = tuple(t.gather(2, index_RHn[..., None].expand(-1, -1, -1, t.shape[-1])) for t in stored)
        self._stored[key] = stored
        return out

    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        raise ContractError(f"cache policy {self.policy} chooses tokens by their queries: call `attend`")

    def live_bytes(self) -> int:
        return sum(t.nbytes for stored in self._stored.values() for t in stored[:2])

    def layer_bytes(self, layer: int) -> int:
        """Live bytes of one layer."""
        return sum(t.nbytes for (at, _), stored in self._stored.items() if at == layer for t in stored[:2])

    def allocated_bytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for stored in self._stored.values() for t in stored[:2])

    def reset(self) -> None:
        self._stored: dict[tuple[int, tuple[int, ...]], tuple[Tensor, ...]] = {}
        self._steps = [0] * self.shape.layers


def best(scores_RHT: Tensor, count: int, *, always_T: Tensor | None = None) -> Tensor:
    """Ascending indices (R, H, count) of the highest scores, the first of equal ones; `always_T` (bool) come first."""
    order_RHT = scores_RHT.sort(dim=-1, descending=True, stable=True).indices
    if always_T is not None:
        forced_RHT = always_T[order_RHT]
        order_RHT = order_RHT.gather(-1, forced_RHT.sort(dim=-1, descending=True, stable=True).indices)
    return order_RHT[..., :count].sort(dim=-1).values
