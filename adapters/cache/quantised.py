"""Keys and values in eight bits, with a scale per head and token.

A token's channels of one head share a float32 scale, their largest magnitude over the largest number of the format.
The scales are part of the live bytes. Attention reads all tokens from the cache, those of its own step included.

Shapes   R forward rows, H heads, l new tokens, T cached tokens, D head channels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import CachePlan, CacheShape, KVCache
from arvbench.errors import ContractError, HostError


class QuantisedCache(KVCache):
    """One buffer of `capacity_tokens` in `stored`, and one of scales; `extend` returns all tokens dequantised."""

    lossy: ClassVar[bool] = True
    families: ClassVar[str] = "var, flexvar, hmar (with kv_cache=true), llamagen, par, nar, detailflow, dar"
    """Families that it runs on, for the message of an error."""
    stored: ClassVar[torch.dtype]
    largest: ClassVar[float]
    """Largest finite magnitude of the format that is used."""

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)
        size = (shape.layers, 2, shape.rows, shape.heads, shape.capacity_tokens)
        self._values = torch.empty((*size, shape.head_dim), dtype=self.stored, device=shape.device)
        self._scales = torch.empty((*size, 1), dtype=torch.float32, device=shape.device)
        self._filled = [0] * shape.layers

    @classmethod
    def plan(cls, shape: CacheShape, options: Mapping[str, str]) -> CachePlan:
        scale = torch.float32.itemsize
        entry = 2 * shape.rows * (shape.head_dim * cls.stored.itemsize + scale)
        return super().plan(shape, options)._replace(entry_bytes=entry)

    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        start = self._filled[layer]
        end = start + k_RHlD.shape[2]
        if end > self.shape.capacity_tokens:
            raise ContractError(f"layer {layer}: {end} tokens do not fit a cache of {self.shape.capacity_tokens}")
        for part, x_RHlD in enumerate((k_RHlD, v_RHlD)):
            wide_RHlD = x_RHlD.float()
            scale_RHl1 = wide_RHlD.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / self.largest
            self._values[layer, part, :, :, start:end] = self.rounded(wide_RHlD / scale_RHl1)
            self._scales[layer, part, :, :, start:end] = scale_RHl1
        self._filled[layer] = end
        values, scales = self._values[layer, ..., :end, :], self._scales[layer, ..., :end, :]
        keys_RHTD, values_RHTD = (values.float() * scales).to(k_RHlD.dtype).unbind(0)
        return keys_RHTD, values_RHTD

    @classmethod
    def rounded(cls, x: Tensor) -> Tensor:
        """Return numbers up to `largest` in the stored format."""
        return x.to(cls.stored)

    def live_bytes(self) -> int:
        return sum(map(self.layer_bytes, range(self.shape.layers)))

    def layer_bytes(self, layer: int) -> int:
        """Live bytes of one layer."""
        end = self._filled[layer]
        return self._values[layer, ..., :end, :].nbytes + self._scales[layer, ..., :end, :].nbytes

    def allocated_bytes(self) -> int:
        return self._values.untyped_storage().nbytes() + self._scales.untyped_storage().nbytes()

    def reset(self) -> None:
        self._filled = [0] * self.shape.layers


class Int8Cache(QuantisedCache):
    """Integers in -127..127, rounded to the nearest (ties to even)."""

    policy = "int8"
    stored: ClassVar = torch.int8
    largest: ClassVar = 127.0

    @classmethod
    def rounded(cls, x: Tensor) -> Tensor:
        return x.round().to(cls.stored)


class Fp8Cache(QuantisedCache):
    """Float8 e4m3; on a GPU only where the hardware has it (compute capability 8.9 on). A CPU converts in software."""

    policy = "fp8"
    stored: ClassVar = torch.float8_e4m3fn
    largest: ClassVar = 448.0

    def __init__(self, shape: CacheShape) -> None:
        if shape.device.type == "cuda" and (have := torch.cuda.get_device_capability(shape.device)) < (8, 9):
            raise HostError(
                "cache policy fp8 needs a GPU with float8 (compute capability 8.9 on), this one has "
                f"{have[0]}.{have[1]}: take int8"
            )
        super().__init__(shape)
