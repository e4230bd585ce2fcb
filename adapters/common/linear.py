"""Linear layers that oneDNN computes on a CPU: with a packed weight while passes have few rows, or with a GELU.

A packable layer holds its weight once: plain, as loaded, or packed in oneDNN's order. Sampling packs it; whatever else
looks at it finds it plain, with equal bits: state dicts, conversion and moves, copies, gradients.

Rows     of one product: forward rows times new tokens of the pass
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.schedule import Schedule
from arvbench.kernels import onednn
from arvbench.kernels.backends import backend_named

SMALLEST = 2**18
"""Elements of a weight, 1 MiB: smaller ones stay in the caches next to a core, and plain."""

# (least outputs, fewest, most mean rows per pass) for which a weight is packed, by threads (2: or more), as measured
# in fp32 with weights from memory (docs/performance.md, "Sampling on a CPU"). The time of a packed product is nearly
# linear in its rows, so that their mean decides. With AVX-512, the plain products of MKL take half as long of 3 rows as
# of 4, and less than packed ones.
_AVX512 = {1: ((2048, 4, 128), (0, 4, 64)), 2: ((2048, 4, 256), (0, 4, 128))}
_OTHERS = {1: ((8192, 2, 256), (2048, 2, 48), (0, 2, 36)), 2: ((8192, 2, 256), (2048, 2, 128), (0, 2, 72))}

LEAST_ROWS_AT_ONCE: dict[onednn.GeluForm, int] = {"tanh": 64, "none": 256}
"""Rows of a product from which its GELU is computed within it, by form: with AVX-512, as measured. With AVX2, where the
GELU of oneDNN takes longer than that of torch, never (docs/performance.md)."""


def processor() -> str:
    """Return the instructions that torch uses on this processor, such as "AVX2" or "AVX512"."""
    return torch.backends.cpu.get_cpu_capability()


class PackableLinear(nn.Linear):
    """`nn.Linear` that can hold its weight packed; the parameter stays the same object."""

    @property
    def packed(self) -> bool:
        return self.weight.is_mkldnn

    def gains(self, rows: float, threads: int) -> bool:
        """True when passes of `rows` rows on average are faster with the packed weight."""
        table = (_AVX512 if processor() == "AVX512" else _OTHERS)[min(threads, 2)]
        fewest, most = next((fewest, most) for outputs, fewest, most in table if self.out_features >= outputs)
        return self.weight.numel() >= SMALLEST and fewest <= rows <= most

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


class GeluLinear(nn.Linear):
    """Linear layer with a GELU behind it, exact or in its tanh form; a sampler may have both computed at once."""

    def __init__(self, width: int, out: int, form: onednn.GeluForm) -> None:
        super().__init__(width, out)
        self.form = form
        self.at_once = False

    def forward(self, x: Tensor) -> Tensor:
        many = x.numel() >= LEAST_ROWS_AT_ONCE[self.form] * self.in_features
        if self.at_once and many and not torch.is_grad_enabled():
            return onednn.linear_gelu(x, self.weight, self.bias, self.form)
        return F.gelu(super().forward(x), approximate=self.form)


def uses_onednn(module: nn.Module, backend: str, dtype: torch.dtype) -> bool:
    """True when oneDNN may compute layers of `module`: in fp32 on a CPU, where the backend asks for it."""
    if not backend_named(backend).onednn or dtype != torch.float32:
        return False
    return next(module.parameters()).device.type == "cpu" and onednn.usable()


def packed_layers(module: nn.Module, schedule: Schedule, backend: str, dtype: torch.dtype) -> list[PackableLinear]:
    """Return the layers of `module` that run on packed weights in the calls of `schedule`.

    They gain by it on a CPU in fp32, where the backend packs and this torch can.
    """
    if not uses_onednn(module, backend, dtype):
        return []
    rows = sum(step.rows * step.new_tokens for step in schedule) / len(schedule)
    threads = torch.get_num_threads()
    return [layer for layer in _layers(module) if layer.gains(rows, threads)]


def arrange(module: nn.Module, packed: Sequence[PackableLinear]) -> None:
    """Pack the layers `packed` of `module`, and unpack all others."""
    chosen = set(packed)
    for layer in _layers(module):
        if layer in chosen:
            layer.pack()
        else:
            layer.unpack()


@contextmanager
def gelu_at_once(layers: Sequence[GeluLinear]) -> Iterator[None]:
    """Compute layers with their GELU at once; afterwards apart, as whatever else runs the model expects."""
    for layer in layers:
        layer.at_once = True
    try:
        yield
    finally:
        for layer in layers:
            layer.at_once = False


def gelu_layers(module: nn.Module, backend: str, dtype: torch.dtype) -> list[GeluLinear]:
    """Return the layers of `module` that have a GELU which this processor computes faster within the product."""
    if processor() != "AVX512" or not uses_onednn(module, backend, dtype):
        return []
    return [layer for layer in module.modules() if isinstance(layer, GeluLinear)]


def _layers(module: nn.Module) -> list[PackableLinear]:
    return [layer for layer in module.modules() if isinstance(layer, PackableLinear)]
