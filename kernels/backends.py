"""Backends: the ways to run a model, one line each. Reading the table imports neither torch nor triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from arvbench.errors import UnknownName

Implementation = str
"""Name for `KernelSpec.implementation`: "torch", "triton", "compiled" and what else an operation has."""
Kernels = Literal["backend", "interpreter", "compiled"]
"""Way of running kernels: as the backend says for the device, in Triton's interpreter on a CPU, or as torch.compile
makes them of the references (arvbench.kernels.compiled).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Kernel implementation per kind of device, and the samplers' faithfulness to the official code."""

    cuda: Implementation
    """Implementation of every kernel on CUDA devices."""
    elsewhere: Implementation
    official: bool
    """True when samplers follow the official code even where it wastes work: its cache policy, and unconditional rows
    whose guidance strength is 0.
    """
    graphs: bool = False
    """True when samplers on CUDA record their calls and replay them (arvbench.adapters.graphs)."""
    half_decode: bool = False
    """True when samplers on CUDA decode in bfloat16 where the check of their images allows it
    (arvbench.adapters.decoding).
    """
    onednn: bool = False
    """True when samplers on a CPU leave linear layers to oneDNN where it is faster (adapters.common.linear), and lay
    out maps as its convolutions are faster (adapters.tokenizers.tokenizer).
    """

    def graphs_on(self, device_type: str) -> bool:
        """True when samplers on devices of `device_type` replay recorded calls."""
        return self.graphs and device_type == "cuda"

    def half_decode_on(self, device_type: str) -> bool:
        """True when samplers on devices of `device_type` try to decode in bfloat16."""
        return self.half_decode and device_type == "cuda"

    def implementation(self, device_type: str) -> Implementation:
        """Return the implementation of every kernel on devices of `device_type` ("cpu", "cuda", "mps")."""
        return self.cuda if device_type == "cuda" else self.elsewhere


BACKENDS: Mapping[str, Backend] = {
    "reference": Backend(cuda="torch", elsewhere="torch", official=True),
    "optimized": Backend(cuda="triton", elsewhere="torch", official=False, graphs=True, half_decode=True, onednn=True),
}

if TYPE_CHECKING:
    BackendName = str
else:
    # The command line takes its choices from this type.
    BackendName = Literal[tuple(BACKENDS)]


def backend_named(name: str) -> Backend:
    """Return the backend `name`, or raise UnknownName."""
    if name not in BACKENDS:
        raise UnknownName("backend", name, BACKENDS)
    return BACKENDS[name]
