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

SMALLEST = 2**18
"""Elements of a weight, 1 MiB: smaller ones stay in the caches next to a core, and plain."""

# Measured on AVX2, fp32, weights from memory. The time of a product is nearly linear in its rows, and so is the gain of
# packing: the mean over the passes decides. Gain in ps per element at 16, 32, 64 and 128 rows, one thread: 768 outputs
# 70, 0, -200, -360; 2,048 to 4,096 outputs 200, 140, 50, -150; 16,384 outputs 340, 350, 410, 420. In CPU seconds of two
# threads, to which plain products spread worse: 300, 230, 50, -200; 300, 360, 320, 180; 1100, 1290, 1100, 1300.
FEW_ROWS = {1: ((8192, 256), (2048, 48), (0, 36)), 2: ((8192, 256), (2048, 128), (0, 72))}
"""By threads (2 stands for more): (least outputs, largest mean number of rows per pass for which they are packed)."""


class PackableLinear(nn.Linear):
    """`nn.Linear` that can hold its weight packed; the parameter stays the same object."""

    @property
    def packed(self) -> bool:
        return self.weight.is_mkldnn

    def gains(self, rows: float, threads: int) -> bool:
        """True when passes of `rows` rows on average are faster with the packed weight."""
        most = next(most for outputs, most in FEW_ROWS[min(threads, 2)] if self.out_features >= outputs)
        return self.weight.numel() >= SMALLEST and rows <= most

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
    threads = torch.get_num_threads()
    layers = [layer for layer in _layers(module) if layer.weight.device.type == "cpu" and layer.gains(rows, threads)]
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
