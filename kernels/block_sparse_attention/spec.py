"""Attention between the tokens of all scales: workloads, tolerances and cost.

Shapes   R rows, H heads, L tokens of all scales, which name the list of sides, D head channels, C 1 where tokens see
         all scales up to their own and 0 where they see only their own, P unused channels between two tokens
Source   VAR at 256 px (680 tokens) and 512 px (2,240), HMAR at 1024 px (9,451): D = 64
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from arvbench.kernels.block_sparse_attention.reference import Scales
from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload

SIDES = {
    680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    9451: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
    # edge cases
    1: (1,),
    64: (8,),
    91: (1, 2, 3, 4, 5, 6),
    195: (1, 5, 13),
}
"""L -> sides of its scales."""
MAX_HEAD_DIM = 64
"""Of every next-scale model; wider heads would spill registers."""


def _shape(R: int, H: int, L: int, C: int, *, D: int = 64, P: int = 0) -> dict[str, int]:
    return {"R": R, "H": H, "L": L, "D": D, "C": C, "P": P}


WORKLOADS = {
    # official models
    "d16-256px-causal": Workload(shape=_shape(8, 16, 680, 1)),
    "d16-256px-diagonal": Workload(shape=_shape(8, 16, 680, 0)),
    "d30-256px-causal": Workload(shape=_shape(64, 30, 680, 1)),
    "d36-512px-causal": Workload(shape=_shape(4, 36, 2240, 1)),
    "d24-1024px-diagonal": Workload(shape=_shape(1, 24, 9451, 0)),
    # edge cases
    "one-token": Workload(shape=_shape(1, 1, 1, 1, D=16), interpret=True),
    "one-scale": Workload(shape=_shape(1, 1, 64, 0, D=16), interpret=True),
    "small-scales-causal": Workload(shape=_shape(1, 2, 91, 1, D=20, P=3), interpret=True),
    "small-scales-diagonal": Workload(shape=_shape(2, 1, 91, 0, D=32, P=3), interpret=True),
    "whole-blocks-causal": Workload(shape=_shape(1, 1, 195, 1, D=16), interpret=True),
    "whole-blocks-diagonal": Workload(shape=_shape(1, 1, 195, 0, D=16), interpret=True),
}

# fp32: rounding of scores of order 1 and of sums. Lower precisions round weights and the result, each to 2**-9 (bf16)
# or 2**-12 (fp16) of its value.
TOLERANCE = {
    torch.float32: Tol(5e-6, 5e-6),
    torch.bfloat16: Tol(2**-7, 2**-7),
    torch.float16: Tol(2**-10, 2**-10),
}
# Of gradients: the gradient of a score, a small difference of numbers of order 1, is rounded before it is summed over
# up to L queries or keys.
GRADIENT_TOLERANCE = {
    torch.float32: Tol(2e-5, 2e-5),
    torch.bfloat16: Tol(2**-5, 2**-6),
    torch.float16: Tol(2**-8, 2**-9),
}


def scales_of(shape: Shape) -> Scales:
    """Return the scales of a workload."""
    tokens = [side * side for side in SIDES[shape["L"]]]
    return Scales((0, *accumulate(tokens)), causal=bool(shape["C"]))


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    R, H, L, D = (shape[letter] for letter in "RHLD")
    width = 3 * H * D
    projections = torch.full((R, L, width + shape["P"]), torch.nan)
    projections[..., :width] = torch.randn(R, L, width, generator=generator)
    qkv = projections.to(device, dtype)[..., :width].unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)
    operands = dict(zip(("q_RHLD", "k_RHLD", "v_RHLD"), qkv.unbind(0), strict=True))
    return {**operands, "scales": scales_of(shape), "softmax_scale": D**-0.5}


def _backward_inputs(
    shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> dict[str, Any]:
    forward = _inputs(shape, dtype=dtype, device=device, generator=generator)
    R, H, L, D = (shape[letter] for letter in "RHLD")
    grad_RLHD = torch.randn(R, L, H, D, generator=generator).to(device, dtype)
    return {"grad_RHLD": grad_RLHD.transpose(1, 2), **forward}


def pairs(shape: Shape) -> int:
    """Return the number of pairs of a query and a key that it sees, of one row and head."""
    scales = scales_of(shape)
    ends = scales.offsets[1:]
    return sum(own * (end if scales.causal else own) for own, end in zip(scales.tokens, ends, strict=True))


def _flops(shape: Shape) -> int:
    # scores and weighted values; per score scale, subtract, exponential, sum
    return shape["R"] * shape["H"] * pairs(shape) * (4 * shape["D"] + 4)


def _backward_flops(shape: Shape) -> int:
    # the forward pass, then scores again, and the gradients of weights, queries, keys and values
    return _flops(shape) + shape["R"] * shape["H"] * pairs(shape) * (10 * shape["D"] + 6)


def _bytes(shape: Shape, itemsize: int) -> int:
    return itemsize * 4 * shape["R"] * shape["H"] * shape["L"] * shape["D"]


def _backward_bytes(shape: Shape, itemsize: int) -> int:
    return itemsize * 7 * shape["R"] * shape["H"] * shape["L"] * shape["D"]


def _supports(q_RHLD: Tensor, **others: Any) -> str | None:
    """Return why the Triton kernel cannot take a call."""
    if q_RHLD.dtype not in TOLERANCE:
        return f"{q_RHLD.dtype}"
    if q_RHLD.shape[-1] > MAX_HEAD_DIM:
        return f"heads of {q_RHLD.shape[-1]} channels, at most {MAX_HEAD_DIM}"
    return None


def _compiled(name: str) -> dict[str, Workload]:
    """Return the workloads, one of them compiled ahead of time: four launches take long."""
    return WORKLOADS | {name: replace(WORKLOADS[name], compile=True)}


FORWARD = KernelSpec(
    name="block_sparse_attention",
    reference="arvbench.kernels.block_sparse_attention.reference:block_sparse_attention",
    fast="arvbench.kernels.block_sparse_attention.triton:block_sparse_attention",
    make_inputs=_inputs,
    workloads=_compiled("d16-256px-diagonal"),
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    limits=Limits(registers=255, shared_bytes=72 * 1024, tensor_cores=True),
    supports=_supports,
    gradient=True,
)

BACKWARD = KernelSpec(
    name="block_sparse_attention_backward",
    reference="arvbench.kernels.block_sparse_attention.reference:block_sparse_attention_backward",
    fast="arvbench.kernels.block_sparse_attention.triton:block_sparse_attention_backward",
    make_inputs=_backward_inputs,
    workloads=_compiled("d16-256px-causal"),
    tolerance=GRADIENT_TOLERANCE,
    flops=_backward_flops,
    bytes_moved=_backward_bytes,
    limits=Limits(registers=255, shared_bytes=96 * 1024, tensor_cores=True),
    supports=_supports,
)
