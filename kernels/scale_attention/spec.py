"""Attention of one scale to the cache: workloads, tolerances and cost.

Shapes   R forward rows (twice the images with guidance), l new tokens, H heads, D head channels, F tokens that the
         cache holds before, T tokens that it can hold (0: no cache), N 1 with L2 norm and 0 without, P unused channels
         between two tokens of the projections
Source   VAR model zoo: H = depth, D = 64, 680 tokens at 256 px and 2,240 at 512 px; FlexVAR's maps of any sides;
         M-VAR and HMAR's mask passes without a cache, M-VAR up to d20 without norm
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload


def _shape(R: int, l: int, H: int, F: int, T: int, **others: int) -> dict[str, int]:  # noqa: E741
    return {"R": R, "l": l, "H": H, "F": F, "T": T, "D": 64, "N": 1, "P": 0} | others


WORKLOADS = {
    # official models
    "d16-first": Workload(shape=_shape(2, 1, 16, 0, 680)),
    "d16-middle": Workload(shape=_shape(16, 36, 16, 55, 680), compile=True),
    "d16-last-one-image": Workload(shape=_shape(2, 256, 16, 424, 680)),
    "d16-last": Workload(shape=_shape(16, 256, 16, 424, 680), compile=True),
    "d20-middle": Workload(shape=_shape(16, 64, 20, 91, 680)),
    "d24-middle": Workload(shape=_shape(16, 100, 24, 155, 680)),
    "d30-last": Workload(shape=_shape(128, 256, 30, 424, 680)),
    "d36-512px-first": Workload(shape=_shape(4, 1, 36, 0, 2240)),
    "d36-512px-last": Workload(shape=_shape(4, 1024, 36, 1216, 2240)),
    "flexvar-oblong": Workload(shape=_shape(4, 16 * 23, 16, 512, 912)),
    "hmar-d30-1024px-last": Workload(shape=_shape(2, 4096, 30, 0, 0)),
    "mvar-d20-last": Workload(shape=_shape(16, 256, 20, 0, 0, N=0)),
    # edge cases
    "full-at-the-end": Workload(shape=_shape(2, 9, 3, 21, 30), interpret=True),
    "several-blocks": Workload(shape=_shape(1, 70, 1, 67, 150, D=32), interpret=True),
    "no-norm": Workload(shape=_shape(1, 16, 2, 14, 46, N=0), interpret=True),
    "no-cache": Workload(shape=_shape(2, 25, 2, 0, 0), interpret=True),
    "one-token-one-row": Workload(shape=_shape(1, 1, 1, 1, 2, D=16), interpret=True),
    "empty-cache": Workload(shape=_shape(2, 1, 2, 0, 5), interpret=True),
    "ragged": Workload(shape=_shape(2, 5, 2, 3, 11, D=20, P=7), interpret=True),
}

# fp32: rounding of scores up to 20, then of the sums. Lower precisions also round keys, weights and the result, each to
# 2**-9 (bf16) or 2**-12 (fp16) of its value; scores are off by 20 times a key's rounding over sqrt(D), values are of
# order 1, and few keys weigh most.
TOLERANCE = {
    torch.float32: Tol(2e-5, 2e-5),
    torch.bfloat16: Tol(2**-5, 2**-7),
    torch.float16: Tol(2**-8, 2**-10),
}

MAX_HEAD_DIM = 64
"""Of every next-scale model; wider heads would spill registers."""
LARGEST_SCALE = 20.0
SOFTMAX_SCALE_WITHOUT_NORM = 0.25


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    R, tokens, H, D, filled, capacity = (shape[letter] for letter in "RlHDFT")

    def cache(old_RHFD: Tensor) -> Tensor:
        # NaN in slots that are not filled, and between two layers' buffers
        memory = torch.full((R, H, capacity + 1, D), torch.nan)
        memory[:, :, :filled] = old_RHFD
        return memory.to(device, dtype)[:, :, :capacity]

    width = 3 * H * D
    projections = torch.full((R, tokens, width + shape["P"]), torch.nan)
    projections[..., :width] = torch.randn(R, tokens, width, generator=generator)
    if tokens * R > 1:
        projections[0, 0, : H * D] = 0.0  # a query without direction
    old_k, old_v = torch.randn(2, R, H, filled, D, generator=generator)
    if shape["N"]:
        old_k /= old_k.norm(dim=-1, keepdim=True)
    # Training begins with 4.
    log_scale = torch.linspace(4.0, LARGEST_SCALE, H).log()
    return {
        "qkv_Rl3HD": projections.to(device, dtype)[..., :width].unflatten(-1, (3, H, D)),
        "log_scale_H": log_scale.view(1, H, 1, 1).to(device, dtype) if shape["N"] else None,
        "keys_RHTD": cache(old_k) if capacity else None,
        "values_RHTD": cache(old_v) if capacity else None,
        "filled_1": torch.tensor([filled], dtype=torch.int32, device=device) if capacity else None,
        "softmax_scale": 1.0 if shape["N"] else SOFTMAX_SCALE_WITHOUT_NORM / D**0.5,
    }


def _flops(shape: Shape) -> int:
    R, tokens, H, D = (shape[letter] for letter in "RlHD")
    context = shape["F"] + tokens
    # scores and weighted values; per score scale, subtract, exponential, sum; lengths of queries and keys
    return R * H * tokens * (context * (4 * D + 4) + shape["N"] * 6 * D)


def _bytes(shape: Shape, itemsize: int) -> int:
    R, tokens, H, D = (shape[letter] for letter in "RlHD")
    stored = 2 * tokens if shape["T"] else 0
    return itemsize * R * H * D * (3 * tokens + 2 * shape["F"] + stored + tokens)


def _supports(qkv_Rl3HD: Tensor, **others: Any) -> str | None:
    """Return why the Triton kernel cannot take a call. An additive bias is no operand: sampling hides no token."""
    if qkv_Rl3HD.dtype not in TOLERANCE:
        return f"{qkv_Rl3HD.dtype}"
    if qkv_Rl3HD.shape[-1] > MAX_HEAD_DIM:
        return f"heads of {qkv_Rl3HD.shape[-1]} channels, at most {MAX_HEAD_DIM}"
    return None


SPEC = KernelSpec(
    name="scale_attention",
    reference="arvbench.kernels.scale_attention.reference:scale_attention",
    fast="arvbench.kernels.scale_attention.triton:scale_attention",
    make_inputs=_inputs,
    workloads=WORKLOADS,
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    limits=Limits(registers=240, shared_bytes=72 * 1024, tensor_cores=True),
    mutates=("keys_RHTD", "values_RHTD"),
    supports=_supports,
)
