"""Linear layers whose weight is packed while passes have few rows.

A layer holds its weight once: plain, as loaded, or packed in oneDNN's order. Sampling packs it; whatever else looks at
it finds it plain, with equal bits: state dicts, conversion and moves, copies, gradients.

Rows     of one product: forward rows times new tokens of the pass
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from arvbench.adapters.schedule import Schedule
from arvbench.kernels import onednn
from arvbench.kernels.backends import backend_named

# Measured on AVX2, fp32, plain over packed. Weights of 6 to 16 MiB: 1.3 to 1.8 at 2 rows, 1.0 to 1.6 at 16, 1.0 to 1.2
# at 48, 0.9 to 1.1 from 64 on. Weights of 48 and 80 MiB: 2.0 at 2 rows, 1.4 at 64, 1.2 at 128. A call of oneDNN itself
# takes some microseconds longer.
FEW_ROWS = ((2**18, 48), (2**23, 128))
"""(elements of a weight, largest mean number of rows per pass for which it is packed); smaller weights stay plain. The
sizes are 1 MiB, beyond the caches next to a core, and 32 MiB, beyond those that cores share.
"""


class PackableLinear(nn.Linear):
    """`nn.Linear` that can hold its weight packed; the parameter stays the same object."""

    @property
    def packed(self) -> bool:
        return self.weight.is_mkldnn

    def gains(self, rows: float) -> bool:
        """True when products of `rows` rows are faster with the packed weight."""
        return any(self.weight.numel() >= elements and rows <= most for elements, most in FEW_ROWS)

    def pack(self) -> None:
        """Pack the weight unless it is packed."""
        if not self.packed:
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


def packed_layers(module: nn.Module, schedule: Schedule, backend: str, dtype: torch.dtype) -> list[PackableLinear]:
    """Return the layers of `module` that run on packed weights in the calls of `schedule`.

    They gain by it on a CPU in fp32, where the backend packs and this torch can.
    """
    if not backend_named(backend).packs_weights or dtype != torch.float32:
        return []
    rows = sum(step.rows * step.new_tokens for step in schedule) / len(schedule)
    layers = [layer for layer in _layers(module) if layer.weight.device.type == "cpu" and layer.gains(rows)]
    return layers if layers and onednn.usable() else []


def arrange(module: nn.Module, packed: Sequence[PackableLinear]) -> None:
    """Pack the layers `packed` of `module`, and unpack all others."""
    chosen = set(packed)
    for layer in _layers(module):
        if layer in chosen:
            layer.pack()
        else:
            layer.unpack()


def _layers(module: nn.Module) -> list[PackableLinear]:
    return [layer for layer in module.modules() if isinstance(layer, PackableLinear)]
