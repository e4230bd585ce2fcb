"""The official cache of M-VAR: store the mixer's inputs for all tokens and rerun the mixer over them at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.adapters.mvar.cache import Branch, RecurrentCache, RecurrentShape


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryShape(RecurrentShape):
    """Size of a `HistoryCache`."""

    def bytes_of(self, tokens: int) -> int:
        """Bytes of all layers' inputs for `tokens` tokens."""
        return self.layers * self.rows * self.mixer.d_model * tokens * self.dtype.itemsize


class HistoryCache(RecurrentCache):
    """Reference cache that grows by concatenation; the work of a step grows with the number of earlier tokens."""

    policy = "history"
    shape: HistoryShape

    def __init__(self, shape: HistoryShape) -> None:
        super().__init__(shape)
        self._inputs: list[Tensor | None] = [None] * shape.layers

    def mix(self, layer: int, x_RlW: Tensor, branch: Branch) -> Tensor:
        earlier = self._inputs[layer]
        all_RTW = x_RlW.clone() if earlier is None else torch.cat((earlier, x_RlW), dim=1)
        self._inputs[layer] = all_RTW
        out_RTW, _ = branch(all_RTW, None)
        return out_RTW[:, -x_RlW.shape[1] :]

    def live_bytes(self) -> int:
        return sum(t.nbytes for t in self._inputs if t is not None)

    def allocated_bytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in self._inputs if t is not None)

    def reset(self) -> None:
        self._inputs = [None] * self.shape.layers
