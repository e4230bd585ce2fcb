"""Cache that concatenates at every step, as the official code does."""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import CacheShape, KVCache


class GrowCache(KVCache):
    """Stores exactly the cached tokens. Each step copies a layer's cache, which briefly takes twice its size."""

    policy = "grow"

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)
        self._kv: list[tuple[Tensor, Tensor] | None] = [None] * shape.layers

    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        cached = self._kv[layer]
        if cached is not None:
            k_RHlD, v_RHlD = torch.cat((cached[0], k_RHlD), dim=2), torch.cat((cached[1], v_RHlD), dim=2)
        else:
            # Views of the fused projection would keep all of it alive.
            k_RHlD, v_RHlD = k_RHlD.contiguous().clone(), v_RHlD.contiguous().clone()
        self._kv[layer] = (k_RHlD, v_RHlD)
        return k_RHlD, v_RHlD

    def live_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self._kv if pair for t in pair)

    def allocated_bytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for pair in self._kv if pair for t in pair)

    def reset(self) -> None:
        self._kv = [None] * self.shape.layers
