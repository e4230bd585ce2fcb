"""Operations that the models share: a PyTorch reference, a Triton kernel, and the choice between them.

`KERNELS` names every operation. Reading the table imports neither torch nor triton. A new operation is a folder with
`reference.py`, `triton.py` and `spec.py`, and one line here; tests and benchmarks run over the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from arvbench.kernels.operation import KernelSpec

KERNELS: Registry[KernelSpec] = Registry(
    "kernel",
    {
        "adaln_modulate": "arvbench.kernels.adaln.spec:MODULATE",
        "adaln_residual": "arvbench.kernels.adaln.spec:RESIDUAL",
    },
)
