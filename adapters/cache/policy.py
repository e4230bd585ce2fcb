"""Memory of the tokens seen so far, passed in by the caller; models keep none themselves.

A policy is a named way to store one kind of memory: keys and values of attention (`KVCache`), the state of a
recurrence, or nothing. A family runs with every policy for its kinds of memory.

Shapes   R forward rows, H heads, l new tokens, T cached tokens, D head channels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

Memory = Literal["keys and values", "recurrent state", "nothing"]
"""Kinds of memory. Policies of one kind give the model equal contents: they differ in cost, never in tokens."""


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

    def bytes_of(self, tokens: int) -> int:
        """Bytes of keys and values of all layers for `tokens` cached tokens."""
        return 2 * self.layers * self.rows * self.heads * self.head_dim * tokens * self.dtype.itemsize


class Cache(ABC):
    """Memory per layer between the steps of one sampling call."""

    policy: ClassVar[str]
    """Name in `CACHE_POLICIES`."""
    memory: ClassVar[Memory]

    def __init__(self, shape: Any) -> None:
        """Allocate for `shape`, a frozen dataclass; caches of equal shape are exchangeable."""
        self.shape = shape

    @abstractmethod
    def live_bytes(self) -> int:
        """Bytes in use now, all layers."""

    @abstractmethod
    def allocated_bytes(self) -> int:
        """Bytes of storage now, all layers."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all tokens."""


class KVCache(Cache):
    """Keys and values of the tokens seen so far, per layer."""

    memory: ClassVar[Memory] = "keys and values"
    shape: CacheShape

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)

    @abstractmethod
    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        """Append l tokens to `layer` and return all its keys and values, each (R, H, T, D)."""
