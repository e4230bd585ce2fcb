"""Linear layers whose weight is packed while passes have few rows.

A layer holds its weight once: plain, as loaded, or packed in oneDNN's order. Sampling packs it; whatever else looks at
it finds it plain, with equal bits: state dicts, conversion and moves, copies, gradients.

Rows     of one product: forward rows times new tokens of the pass
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from arvbench.adapters.schedule import Schedule
from arvbench.kernels import onednn
from arvbench.kernels.backends import backend_named

# Measured on AVX2, fp32, weights of 6 to 50 MB: packed is faster by 1.3 to 2.1 at 2 rows, 1.0 to 1.6 at 16, 1.0 to 1.3
# at 32, and by 0.9 to 1.2 from 64 on. A call of oneDNN itself takes some microseconds longer.
FEW_ROWS = 32
"""Largest mean number of rows of the passes of a call that packs weights."""
LARGE_WEIGHT = 2**18
"""Fewest elements of a weight that is packed: 1 MiB, beyond the caches next to a core."""


class PackableLinear(nn.Linear):
    """`nn.Linear` that can hold its weight packed; the parameter stays the same object."""

    @property
    def packed(self) -> bool:
        return self.weight.is_mkldnn

    @property
    def gains(self) -> bool:
        """True when the weight is large enough for packing to make a product faster."""
        return self.weight.numel() >= LARGE_WEIGHT

    def pack(self) -> None:
        """Pack the weight unless it is packed, or too small to gain."""
        if self.gains and not self.packed:
            self._exchange(onednn.packed)

    def unpack(self) -> None:
        """Restore the plain weight, bit by bit."""
        if self.packed:
            self._exchange(Tensor.to_dense)

    # Training may follow a call in inference mode, and an optimizer holds the parameter itself: its content changes.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _exchange(self, reorder: Callable[[Tensor], Tensor]) -> None:
        other = nn.Parameter(reorder(self.weight.detach()), requires_grad=self.weight.requires_grad)
        torch.utils.swap_tensors(self.weight, other)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed and torch.is_grad_enabled():
            self.unpack()
        return onednn.packed_linear(x, self.weight, self.bias) if self.packed else super().forward(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.unpack()
        applied: Self = nn.Linear._apply(self, fn, recurse)
        return applied

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        self.unpack()
        return self.__dict__.copy()


def packs_weights(
    module: nn.Module, schedule: Schedule, backend: str, device: torch.device, dtype: torch.dtype
) -> bool:
    """True when the calls of `schedule` run on packed weights.

    The backend packs, this torch can, rows are few, and `module` has large weights.
    """
    wanted = backend_named(backend).packs_weights and device.type == "cpu" and dtype == torch.float32
    few = sum(step.rows * step.new_tokens for step in schedule) <= FEW_ROWS * len(schedule)
    return wanted and few and any(layer.gains for layer in _layers(module)) and onednn.usable()


def arrange(module: nn.Module, *, packed: bool) -> None:
    """Pack or unpack the layers of `module`."""
    for layer in _layers(module):
        if packed:
            layer.pack()
        else:
            layer.unpack()


def _layers(module: nn.Module) -> list[PackableLinear]:
    return [layer for layer in module.modules() if isinstance(layer, PackableLinear)]
