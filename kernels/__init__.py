"""Operations that the models share: a PyTorch reference, a Triton kernel, and the choice between them.

`KERNELS` names every operation; reading it imports neither torch nor triton. To add an operation, write a folder with
`reference.py`, `triton.py` and `spec.py`, and one line here. Tests and benchmarks run over the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from arvbench.kernels.contract import KernelSpec

KERNELS: Registry[KernelSpec] = Registry(
    "kernel",
    {
        "adaln_modulate": "arvbench.kernels.adaln.spec:MODULATE",
        "adaln_residual": "arvbench.kernels.adaln.spec:RESIDUAL",
        "scale_attention": "arvbench.kernels.scale_attention.spec:SPEC",
        "wavefront_attention": "arvbench.kernels.wavefront_attention.spec:SPEC",
        "block_sparse_attention": "arvbench.kernels.block_sparse_attention.spec:FORWARD",
        "block_sparse_attention_backward": "arvbench.kernels.block_sparse_attention.spec:BACKWARD",
        "guided_sample": "arvbench.kernels.guided_sample.spec:SAMPLE",
        "next_scale_input": "arvbench.kernels.next_scale_input.spec:INPUT",
        "rms_norm_gated": "arvbench.kernels.rms_norm_gated.spec:NORM",
        "ssd_scan": "arvbench.kernels.ssd_scan.spec:SCAN",
        "swiglu": "arvbench.kernels.swiglu.spec:SWIGLU",
    },
)
