"""Memory of the tokens seen so far, passed in by the caller; models keep none themselves.

A policy is a named way to store one kind of memory: keys and values of attention (`KVCache`), the state of a
recurrence, or nothing. A family runs with every exact policy for its kinds of memory. A lossy policy keeps less than
the model would read: it has a budget, and `request.py` says how users write it.

Shapes   R forward rows, H heads, l new tokens, T cached tokens, D head channels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.errors import UserError

Memory = Literal["keys and values", "recurrent state", "nothing"]
"""Kinds of memory. Exact policies of one kind give the model equal contents: they differ in cost, never in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOrder:
    """Tokens that the steps of a sampling call feed, in order: what a budget is measured against."""

    kind: Literal["scales", "lines", "other"]
    """"scales" (a step feeds one whole resolution), "lines" (raster order), or another order of one token map."""
    steps: tuple[tuple[int, int], ...]
    """Height and width of the tokens that each step feeds; (1, l) where they form no map."""
    line_ends: tuple[int, ...] = ()
    """Steps after which a line of the token map has been fed; empty without lines."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """l of every step."""
        return tuple(height * width for height, width in self.steps)

    def before(self, step: int) -> int:
        """Tokens fed before `step`."""
        return sum(self.tokens[:step])


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """Sizes, dtype and device of a KV cache."""

    layers: int
    rows: int
    heads: int
    head_dim: int
    capacity_tokens: int
    dtype: torch.dtype
    device: torch.device
    order: TokenOrder | None = field(default=None, repr=False)
    """None for a family that runs with exact policies alone."""

    def bytes_of(self, tokens: int) -> int:
        """Bytes of keys and values of all layers for `tokens` cached tokens."""
        return self.layers * self.heads * tokens * self.entry_bytes

    @property
    def entry_bytes(self) -> int:
        """Bytes of one token's key and value in one head, all rows."""
        return 2 * self.rows * self.head_dim * self.dtype.itemsize


class CachePlan(NamedTuple):
    """Contents of a KV cache, known before the call."""

    entries: tuple[tuple[int, ...], ...]
    """[step][layer]: tokens held after the step, summed over heads."""
    entry_bytes: int
    """Bytes of one token's key and value in one head, all rows."""

    def bytes_after(self, step: int, layer: int | None = None) -> int:
        """Live bytes after `step`, of one layer or (None) all."""
        held = self.entries[step]
        return self.entry_bytes * (sum(held) if layer is None else held[layer])


class AttentionInput(NamedTuple):
    """Queries, keys and values of the new tokens of one layer, (R, H, l, D) each."""

    q_RHlD: Tensor
    k_RHlD: Tensor
    v_RHlD: Tensor
    scale: float | None = None
    """Softmax scale; None means 1 / sqrt(D)."""
    bias_llT: Tensor | None = None
    projected: Callable[[], Tensor] | None = None
    """Gives the bare projection of the input to queries, (R, H, l, D): no bias, norm, scale or rotation."""

    @property
    def softmax_scale(self) -> float:
        return self.scale if self.scale is not None else float(self.q_RHlD.shape[-1]) ** -0.5


class Cache(ABC):
    """Memory per layer between the steps of one sampling call."""

    policy: str
    """Name in `CACHE_POLICIES`, with the options that were asked for."""
    memory: ClassVar[Memory]
    lossy: ClassVar[bool] = False
    """True when the model reads something else than all that it was given; such a policy changes tokens."""

    in_place: ClassVar[bool] = False
    """True when steps write memory that is allocated once, so that a recorded call may be replayed."""

    def __init__(self, shape: Any) -> None:
        """Allocate for `shape`, a frozen dataclass; caches of equal shape are exchangeable."""
        self.shape = shape

    @classmethod
    def make(cls, shape: Any, options: Mapping[str, str]) -> Self:
        """Build the cache with the options of its request. Raises UserError for options that do not fit."""
        cls.check(shape.order if isinstance(shape, CacheShape) else None, options)
        return cls(shape)

    @classmethod
    def check(cls, order: TokenOrder | None, options: Mapping[str, str]) -> None:
        """Raise UserError for options that the policy does not have, or that do not fit the order of tokens."""
        if options:
            raise UserError(f"cache policy {cls.policy} takes no budget and no options, got {', '.join(options)}")

    @abstractmethod
    def live_bytes(self) -> int:
        """Bytes in use now, all layers."""

    @abstractmethod
    def allocated_bytes(self) -> int:
        """Bytes of storage now, all layers."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all tokens."""

    def progress(self) -> Any:
        """Return what the host knows of the contents, for `resume`; only of a cache that is written in place."""
        return None

    def resume(self, progress: Any) -> None:
        """Take over what the host knew when `progress` was returned: a replay has written the contents since."""
        assert progress is None


class CacheSlots(NamedTuple):
    """Where a kernel stores the new keys and values of a layer itself; None in all for a cache that keeps nothing."""

    keys_RHTD: Tensor | None
    values_RHTD: Tensor | None
    filled_1: Tensor | None
    """int32 on the device: tokens that are there already."""


NO_SLOTS = CacheSlots(None, None, None)


class KVCache(Cache):
    """Keys and values of the tokens seen so far, per layer."""

    memory: ClassVar[Memory] = "keys and values"
    shape: CacheShape

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)

    @classmethod
    def plan(cls, shape: CacheShape, options: Mapping[str, str]) -> CachePlan:
        """Plan the contents after every step of `shape.order`; exact policies hold all tokens fed so far."""
        assert shape.order is not None, "only a family that tells its order of tokens plans by it"
        seen = [shape.order.before(step + 1) * shape.heads for step in range(len(shape.order.steps))]
        return CachePlan(tuple((tokens,) * shape.layers for tokens in seen), shape.entry_bytes)

    def slots(self, layer: int, tokens: int) -> CacheSlots | None:
        """Count `tokens` new ones and return where a kernel stores them; None: they come through `attend`."""
        return None

    @abstractmethod
    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        """Append l tokens to `layer` and return all its keys and values, each (R, H, T, D)."""

    def attend(self, layer: int, new: AttentionInput) -> Tensor:
        """Append the new tokens to `layer` and return their attention to all of its tokens, (R, H, l, D)."""
        k_RHTD, v_RHTD = self.extend(layer, new.k_RHlD, new.v_RHlD)
        return F.scaled_dot_product_attention(new.q_RHlD, k_RHTD, v_RHTD, attn_mask=new.bias_llT, scale=new.scale)

    def attend_keeping(self, layer: int, new: AttentionInput, kept: int) -> Tensor:
        """Attend as `attend` does, but append only the first `kept` of the new tokens: the others come again."""
        k_RHTD, v_RHTD = self.extend(layer, new.k_RHlD[:, :, :kept], new.v_RHlD[:, :, :kept])
        if kept < new.k_RHlD.shape[2]:
            k_RHTD = torch.cat((k_RHTD, new.k_RHlD[:, :, kept:]), dim=2)
            v_RHTD = torch.cat((v_RHTD, new.v_RHlD[:, :, kept:]), dim=2)
        return F.scaled_dot_product_attention(new.q_RHlD, k_RHTD, v_RHTD, attn_mask=new.bias_llT, scale=new.scale)
