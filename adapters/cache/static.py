"""Cache that is allocated once for the longest context and written in place: no copies, no allocator traffic."""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import AttentionInput, CacheShape, CacheSlots, KVCache
from arvbench.errors import ContractError


class StaticCache(KVCache):
    """One buffer of `capacity_tokens` for all layers; `extend` returns views of its filled part."""

    policy = "static"
    in_place = True

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)
        size = (shape.layers, 2, shape.rows, shape.heads, shape.capacity_tokens, shape.head_dim)
        self._kv = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self._filled = [0] * shape.layers
        # On the device, so that a kernel reads its length without a copy in every step.
        self._lengths = torch.arange(shape.capacity_tokens + 1, dtype=torch.int32, device=shape.device)

    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        if k_RHlD.dtype != self._kv.dtype or k_RHlD.shape[:2] != self._kv.shape[2:4]:
            raise ContractError(f"layer {layer}: keys {k_RHlD.dtype} {tuple(k_RHlD.shape)} for a cache of {self.shape}")
        start = self._filled[layer]
        end = start + k_RHlD.shape[2]
        if end > self.shape.capacity_tokens:
            raise ContractError(f"layer {layer}: {end} tokens do not fit a cache of {self.shape.capacity_tokens}")
        keys, values = self._kv[layer]
        keys.narrow(2, start, end - start).copy_(k_RHlD)
        values.narrow(2, start, end - start).copy_(v_RHlD)
        self._filled[layer] = end
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def attend_keeping(self, layer: int, new: AttentionInput, kept: int) -> Tensor:
        # Tokens that are not kept lie behind the filled part for a moment, where no copy is needed.
        attended_RHlD = self.attend(layer, new)
        self._filled[layer] -= new.k_RHlD.shape[2] - kept
        return attended_RHlD

    def slots(self, layer: int, tokens: int) -> CacheSlots:
        start = self._filled[layer]
        if start + tokens > self.shape.capacity_tokens:
            raise ContractError(f"layer {layer}: {start + tokens} tokens do not fit {self.shape.capacity_tokens}")
        self._filled[layer] = start + tokens
        keys, values = self._kv[layer]
        return CacheSlots(keys, values, self._lengths[start : start + 1])

    def live_bytes(self) -> int:
        filled = (self._kv[layer, :, :, :, :end] for layer, end in enumerate(self._filled))
        return sum(kv.numel() * kv.element_size() for kv in filled)

    def allocated_bytes(self) -> int:
        return self._kv.untyped_storage().nbytes()

    def reset(self) -> None:
        self._filled = [0] * self.shape.layers

    def progress(self) -> tuple[int, ...]:
        return tuple(self._filled)

    def resume(self, progress: tuple[int, ...]) -> None:
        self._filled = list(progress)
