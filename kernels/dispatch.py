"""The kernels of one sampler, chosen by backend and device and by nothing else (`arvbench.kernels.backends`).

A missing Triton is an error rather than a silent fallback, and so is an environment that would run the kernels in
Triton's interpreter.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from arvbench.errors import HostError
from arvbench.kernels import KERNELS
from arvbench.kernels.backends import BACKENDS, backend_named
from arvbench.kernels.contract import Operation


@dataclass(frozen=True, slots=True)
class KernelSet:
    """The kernels that one sampler calls, as attributes: `kernels.adaln_residual(x, gate, branch)`."""

    names: Mapping[str, str]
    """Operation -> implementation ("torch" or "triton"), for the record."""
    operations: Mapping[str, Operation]

    def __getattr__(self, operation: str) -> Operation:
        # Python calls this only for names that are not fields. copy and pickle ask an instance without fields for
        # underscored names.
        if not operation.startswith("_") and operation in self.operations:
            return self.operations[operation]
        raise AttributeError(f"no kernel {operation!r}; known: {', '.join(KERNELS)}")


def select(backend: str, device: torch.device | str) -> KernelSet:
    """Return the kernels of `backend` on `device`.

    Raises UnknownName for an unknown backend, HostError when Triton is needed and cannot be used.
    """
    chosen = backend_named(backend).implementation(torch.device(device).type)
    if chosen == "triton":
        _require_triton(backend)
    return KernelSet(
        names=dict.fromkeys(KERNELS, chosen),
        operations={name: spec.implementations[chosen] for name, spec in KERNELS.items()},
    )


def _require_triton(backend: str) -> None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        without = " or ".join(repr(name) for name, other in BACKENDS.items() if other.cuda != "triton")
        raise HostError(
            f"the {backend} backend needs Triton on CUDA ({error}); install triton or choose backend {without}"
        ) from error
    # Triton reads this variable when a kernel is imported, and knows more words for "on" than for "off".
    if os.environ.get("TRITON_INTERPRET", "").lower() not in ("", "0", "false", "off", "no", "n"):
        raise HostError("TRITON_INTERPRET is set, so kernels would run in Triton's interpreter; unset it")
