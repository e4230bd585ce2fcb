"""The seam between attention and where keys and values are kept.

Shapes   R forward rows, H heads, l new tokens, T cached tokens, D head channels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """Everything that decides the size of a KV cache."""

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


class KVCache(ABC):
    """Keys and values of the tokens seen so far, per layer. Passed in by the caller; models hold none."""

    policy: ClassVar[str]

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape

    @abstractmethod
    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        """Append l tokens to `layer` and return all its keys and values, each (R, H, T, D)."""

    @abstractmethod
    def live_bytes(self) -> int:
        """Bytes of the keys and values that are cached now, all layers."""

    @abstractmethod
    def allocated_bytes(self) -> int:
        """Bytes of the storage held for them now, all layers."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all tokens."""
