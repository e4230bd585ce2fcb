"""Recurrent-state cache of M-VAR: memory and work per step do not depend on the number of earlier tokens.

The result is exact: the mixer is causal, and its state contains its whole memory of earlier tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.adapters.mvar.cache import Branch, RecurrentCache, RecurrentShape
from arvbench.adapters.mvar.mamba2 import MambaState
from arvbench.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class StateShape(RecurrentShape):
    """Size of a `StateCache`."""

    def bytes_of(self, tokens: int) -> int:
        """Bytes of all layers' states after `tokens` tokens, constant for any number above 0."""
        mixer = self.mixer
        conv = mixer.conv_channels * mixer.d_conv * self.dtype.itemsize
        ssm = mixer.d_inner * mixer.d_state * self.ssm_dtype.itemsize
        return self.layers * self.rows * (conv + ssm) if tokens else 0

    @property
    def ssm_dtype(self) -> torch.dtype:
        """At least fp32, for sums over hundreds of tokens."""
        return torch.promote_types(self.dtype, torch.float32)


class StateCache(RecurrentCache):
    """One `MambaState` per layer, allocated once and written in place."""

    policy = "state"
    in_place = True
    shape: StateShape

    def __init__(self, shape: StateShape) -> None:
        super().__init__(shape)
        mixer, outer = shape.mixer, (shape.layers, shape.rows)
        self._conv = torch.zeros((*outer, mixer.conv_channels, mixer.d_conv), dtype=shape.dtype, device=shape.device)
        self._ssm = torch.zeros(
            (*outer, mixer.heads, mixer.headdim, mixer.d_state), dtype=shape.ssm_dtype, device=shape.device
        )
        self._begun = [False] * shape.layers

    def state(self, layer: int) -> MambaState:
        """Return the current state of `layer` as views, which the next step overwrites."""
        return MambaState(self._conv[layer], self._ssm[layer])

    def mix(self, layer: int, x_RlW: Tensor, branch: Branch) -> Tensor:
        before = self.state(layer)
        out_RlW, after = branch(x_RlW, before)
        for stored, new in zip(before, after, strict=True):
            if new.shape != stored.shape or new.dtype != stored.dtype:
                raise ContractError(f"layer {layer}: state {new.dtype} {tuple(new.shape)} for a cache of {self.shape}")
            if new is not stored:
                stored.copy_(new)
        self._begun[layer] = True
        return out_RlW

    def live_bytes(self) -> int:
        return sum(t.nbytes for layer, begun in enumerate(self._begun) if begun for t in self.state(layer))

    def allocated_bytes(self) -> int:
        return self._conv.untyped_storage().nbytes() + self._ssm.untyped_storage().nbytes()

    def reset(self) -> None:
        self._conv.zero_()
        self._ssm.zero_()
        self._begun = [False] * self.shape.layers

    def progress(self) -> tuple[bool, ...]:
        return tuple(self._begun)

    def resume(self, progress: tuple[bool, ...]) -> None:
        self._begun = list(progress)
