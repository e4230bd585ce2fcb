"""Preallocated once for the longest context, written in place: no copies, no allocator traffic."""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.adapters.cache.base import CacheShape, KVCache
from arvbench.errors import ContractError


class StaticCache(KVCache):
    """One buffer of `capacity_tokens` for all layers; reading gives views of its filled part."""

    policy = "static"

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)
        size = (shape.layers, 2, shape.rows, shape.heads, shape.capacity_tokens, shape.head_dim)
        self._kv = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self._filled = [0] * shape.layers

    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        start = self._filled[layer]
        end = start + k_RHlD.shape[2]
        if end > self.shape.capacity_tokens:
            raise ContractError(f"layer {layer}: {end} tokens do not fit a cache of {self.shape.capacity_tokens}")
        keys, values = self._kv[layer]
        keys[:, :, start:end] = k_RHlD
        values[:, :, start:end] = v_RHlD
        self._filled[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def live_bytes(self) -> int:
        per_token = self.shape.bytes_of(1) // self.shape.layers
        return per_token * sum(self._filled)

    def allocated_bytes(self) -> int:
        return self._kv.untyped_storage().nbytes()

    def reset(self) -> None:
        self._filled = [0] * self.shape.layers
