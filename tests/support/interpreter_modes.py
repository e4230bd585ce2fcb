"""Which workloads of the table of kernels the interpreter runs by default, and which with `-m slow`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from arvbench.kernels.contract import KernelSpec

_SMALLEST = ("one-", "empty-")
"""Begins of names of workloads too small to round anything."""


def interpreter_mode(spec: KernelSpec, workload: str, dtype: torch.dtype) -> str | None:
    """Return the mode in which the interpreter runs a workload, None for no mode.

    Half precision takes the path of fp32 and rounds: by default one workload of each kernel shows where it does.
    """
    # The interpreter rounds to bf16 by cutting off; compiled code rounds to nearest, which test_aot.py sees.
    if not spec.workloads[workload].interpret or dtype == torch.bfloat16:
        return None
    first = next(name for name, made in spec.workloads.items() if made.interpret and not name.startswith(_SMALLEST))
    return "interpreter" if workload == first or dtype != torch.float16 else "interpreter-rest"
