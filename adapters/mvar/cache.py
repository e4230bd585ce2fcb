"""Interface between a recurrent mixer and its memory of earlier tokens.

Shapes   R forward rows, l new tokens, W width; arvbench.adapters.mvar.mamba2 defines the mixer's letters
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import Cache, Memory
from arvbench.adapters.mvar.mamba2 import MambaConfig, MambaState

Branch = Callable[[Tensor, MambaState | None], tuple[Tensor, MambaState]]
"""(x (R, l, W), state before it) -> (output (R, l, W), state after it); causal, and one function for all steps.

The state before may be overwritten by the one after.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentShape:
    """Sizes, dtype and device of a recurrent cache."""

    layers: int
    rows: int
    mixer: MambaConfig
    dtype: torch.dtype
    device: torch.device


class RecurrentCache(Cache):
    """Memory of earlier tokens for the mixer of every layer."""

    memory: ClassVar[Memory] = "recurrent state"
    shape: RecurrentShape

    def __init__(self, shape: RecurrentShape) -> None:
        super().__init__(shape)

    @abstractmethod
    def mix(self, layer: int, x_RlW: Tensor, branch: Branch) -> Tensor:
        """Output (R, l, W) of `branch` for l new tokens, which follow all earlier inputs of this layer."""
