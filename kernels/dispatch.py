"""Which implementation of every kernel runs: decided by backend and device, and by nothing else.

| backend   | CUDA   | elsewhere |
|-----------|--------|-----------|
| reference | torch  | torch     |
| optimized | triton | torch     |

A missing Triton is an error rather than a silent second choice, and so is an environment that would run the kernels
in Triton's interpreter.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from arvbench.errors import HostError, UserError
from arvbench.kernels import KERNELS
from arvbench.kernels.operation import Implementation, Operation


@dataclass(frozen=True, slots=True)
class KernelSet:
    """The kernels that one sampler calls, as attributes: `kernels.adaln_residual(x, gate, branch)`."""

    names: Mapping[str, str]
    """Operation -> implementation ("torch" or "triton"), for the record."""
    operations: Mapping[str, Operation]

    def __getattr__(self, operation: str) -> Operation:
        # Only reached for names that are no field. Underscored names are what copy and pickle ask an unfilled
        # instance for.
        if not operation.startswith("_") and operation in self.operations:
            return self.operations[operation]
        raise AttributeError(f"no kernel {operation!r}; known: {', '.join(KERNELS)}")


def select(backend: str, device: torch.device | str) -> KernelSet:
    """Choose the kernels for `backend` ("reference" or "optimized") on `device`.

    Raises UserError for an unknown backend, HostError when Triton is needed and cannot be used.
    """
    if backend not in ("reference", "optimized"):
        raise UserError(f"no backend {backend!r}; known: 'reference', 'optimized'")
    chosen: Implementation = "triton" if backend == "optimized" and torch.device(device).type == "cuda" else "torch"
    if chosen == "triton":
        _require_triton()
    return KernelSet(
        names=dict.fromkeys(KERNELS, chosen),
        operations={name: spec.implementations[chosen] for name, spec in KERNELS.items()},
    )


def _require_triton() -> None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        raise HostError(
            f"the optimized backend needs Triton on CUDA ({error}); install triton or choose backend 'reference'"
        ) from error
    # Triton reads this variable when a kernel is imported; what is not plainly off is taken for on.
    if os.environ.get("TRITON_INTERPRET", "").lower() not in ("", "0", "false", "off", "no", "n"):
        raise HostError("TRITON_INTERPRET is set, so kernels would run in Triton's interpreter; unset it")
