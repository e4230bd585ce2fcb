"""Attention of one pass of a token-grid model: workloads, tolerances and cost.

Tokens lie in the cache in the order of generation, so that its filled part is one prefix, and sampling hides no token
from another: there are no slots and no mask among the operands.

Shapes   R forward rows (twice the images with guidance), l new tokens, H heads, D head channels, F tokens that the
         cache holds before, T tokens that it can hold, Z learnt tokens, whose rotary rows are zero, P unused channels
         between two tokens of the projections
Source   sizes of LlamaGen, NAR and PAR: D = 64, 100 in 3B; 256 tokens at 256 px and 576 at 384 px
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload


def _shape(R: int, l: int, H: int, F: int, T: int, **others: int) -> dict[str, int]:  # noqa: E741
    return {"R": R, "l": l, "H": H, "F": F, "T": T, "D": 64, "Z": 0, "P": 0} | others


WORKLOADS = {
    # official models
    "nar-l-longest": Workload(shape=_shape(2, 16, 16, 121, 256), compile=True),
    "nar-l-longest-64-images": Workload(shape=_shape(128, 16, 16, 121, 256)),
    "nar-xxl-last": Workload(shape=_shape(2, 2, 24, 254, 256)),
    "llamagen-b-class": Workload(shape=_shape(2, 1, 12, 0, 256, Z=1)),
    "llamagen-l-last": Workload(shape=_shape(2, 1, 16, 255, 256)),
    "llamagen-l-384px-last": Workload(shape=_shape(2, 1, 16, 575, 576)),
    "llamagen-xl-64-images": Workload(shape=_shape(128, 1, 20, 255, 256)),
    "par-xl-4x-384px-first-group": Workload(shape=_shape(2, 4, 20, 4, 579, Z=3)),
    "par-3b-16x-384px-last": Workload(shape=_shape(2, 16, 32, 559, 591, D=100), compile=True),
    # edge cases
    "empty-cache": Workload(shape=_shape(2, 1, 2, 0, 5, D=32, Z=1), interpret=True),
    "full-at-the-end": Workload(shape=_shape(2, 3, 2, 7, 10, D=32, Z=2), interpret=True),
    "split": Workload(shape=_shape(1, 2, 1, 201, 300, D=16), interpret=True),
    "split-short": Workload(shape=_shape(1, 1, 2, 3, 520, D=16), interpret=True),
    "split-empty": Workload(shape=_shape(1, 1, 1, 0, 260, D=16), interpret=True),
    "several-blocks": Workload(shape=_shape(1, 40, 1, 70, 127, D=16), interpret=True),
    "wide-heads": Workload(shape=_shape(1, 4, 1, 37, 60, D=100), interpret=True),
    "ragged": Workload(shape=_shape(2, 5, 2, 11, 17, D=22, P=7), interpret=True),
}

# fp32: rounding of scores and sums. Lower precisions round rotated queries and keys, weights and the result, each to
# 2**-9 (bf16) or 2**-12 (fp16) of its value; scores are of order 1, and the largest weights belong to few keys.
TOLERANCE = {
    torch.float32: Tol(5e-6, 5e-6),
    torch.bfloat16: Tol(2**-6, 2**-7),
    torch.float16: Tol(2**-9, 2**-10),
}
MAX_HEAD_DIM = 128


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    R, tokens, H, D, filled, capacity = (shape[letter] for letter in "RlHDFT")

    def cache() -> Tensor:
        # NaN in slots that are not filled, and between two layers' buffers
        memory = torch.full((R, H, capacity + 1, D), torch.nan)
        memory[:, :, :filled] = torch.randn(R, H, filled, D, generator=generator)
        return memory.to(device, dtype)[:, :, :capacity]

    width = 3 * H * D
    projections = torch.full((R, tokens, width + shape["P"]), torch.nan)
    projections[..., :width] = torch.randn(R, tokens, width, generator=generator)
    angle_lP = 6.3 * torch.rand(tokens, D // 2, generator=generator)
    rope_lP2 = torch.stack((angle_lP.cos(), angle_lP.sin()), dim=-1)
    rope_lP2[tokens - shape["Z"] :] = 0.0
    return {
        "qkv_Rl3HD": projections.to(device, dtype)[..., :width].unflatten(-1, (3, H, D)),
        "rope_lP2": rope_lP2.to(device),
        "keys_RHTD": cache(),
        "values_RHTD": cache(),
        "filled_1": torch.tensor([filled], dtype=torch.int32, device=device),
    }


def _flops(shape: Shape) -> int:
    R, tokens, H, D = (shape[letter] for letter in "RlHD")
    # scores and weighted values; per score scale, subtract, exponential, sum; rotation of queries and keys
    return R * H * tokens * ((shape["F"] + tokens) * (4 * D + 4) + 2 * 3 * D)


def _bytes(shape: Shape, itemsize: int) -> int:
    """Return the traffic of projections, cache and result; the rotary rows, which all rows and heads share, are few."""
    R, tokens, H, D = (shape[letter] for letter in "RlHD")
    return itemsize * R * H * D * (3 * tokens + 2 * shape["F"] + 2 * tokens + tokens)


def _supports(qkv_Rl3HD: Tensor, **others: Any) -> str | None:
    """Return why the Triton kernel cannot take a call."""
    if qkv_Rl3HD.dtype not in TOLERANCE:
        return f"{qkv_Rl3HD.dtype}"
    if qkv_Rl3HD.shape[-1] > MAX_HEAD_DIM:
        return f"heads of {qkv_Rl3HD.shape[-1]} channels, at most {MAX_HEAD_DIM}"
    return None


SPEC = KernelSpec(
    name="wavefront_attention",
    reference="arvbench.kernels.wavefront_attention.reference:wavefront_attention",
    fast="arvbench.kernels.wavefront_attention.triton:wavefront_attention",
    make_inputs=_inputs,
    workloads=WORKLOADS,
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    limits=Limits(registers=255, shared_bytes=72 * 1024, tensor_cores=True),
    mutates=("keys_RHTD", "values_RHTD"),
    supports=_supports,
)
