"""Adaptive LayerNorm: workloads, tolerances and cost.

Shapes   R forward rows (twice the images with guidance), l tokens of one step, C channels,
         M rows of the modulation (R or 1), S vectors per modulation row, one of them used (6 in a block, 2 before the
         head: row stride S * C), P unused channels between two rows of x
Source   VAR model zoo: C = 64 * depth; scales of 1..256 tokens at 256 px and 1..1024 at 512 px
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload

MODEL_EPS = 1e-6

WORKLOADS = {
    # official models: guidance doubles 8 images at 256 px and 2 at 512 px
    "d16-first": Workload(shape={"R": 16, "l": 1, "C": 1024, "M": 16, "S": 6, "P": 0}, interpret=True),
    "d16-last": Workload(shape={"R": 16, "l": 256, "C": 1024, "M": 16, "S": 6, "P": 0}, compile=True),
    "d16-head": Workload(shape={"R": 16, "l": 256, "C": 1024, "M": 16, "S": 2, "P": 0}),
    "d20-middle": Workload(shape={"R": 16, "l": 36, "C": 1280, "M": 16, "S": 6, "P": 0}),
    "d24-middle": Workload(shape={"R": 16, "l": 100, "C": 1536, "M": 16, "S": 6, "P": 0}),
    "d30-last": Workload(shape={"R": 16, "l": 256, "C": 1920, "M": 16, "S": 6, "P": 0}, compile=True),
    "d36-512px-first": Workload(
        shape={"R": 4, "l": 1, "C": 2304, "M": 4, "S": 6, "P": 0}, interpret=True, compile=True
    ),
    "d36-512px-last": Workload(shape={"R": 4, "l": 1024, "C": 2304, "M": 4, "S": 6, "P": 0}),
    # edge cases
    "no-power-of-two": Workload(shape={"R": 3, "l": 5, "C": 96, "M": 3, "S": 6, "P": 0}, interpret=True),
    "ragged": Workload(shape={"R": 2, "l": 3, "C": 1001, "M": 2, "S": 6, "P": 3}, interpret=True, compile=True),
    "one-modulation-for-all": Workload(shape={"R": 5, "l": 4, "C": 1000, "M": 1, "S": 6, "P": 0}, interpret=True),
    "adjacent-modulation": Workload(shape={"R": 4, "l": 9, "C": 64, "M": 4, "S": 1, "P": 0}, interpret=True),
    "one-token": Workload(shape={"R": 1, "l": 1, "C": 64, "M": 1, "S": 1, "P": 0}, interpret=True),
    "one-channel": Workload(shape={"R": 3, "l": 4, "C": 1, "M": 3, "S": 6, "P": 0}, interpret=True),
    "padded-rows": Workload(shape={"R": 2, "l": 7, "C": 130, "M": 2, "S": 2, "P": 62}, interpret=True),
}

# One rounding to the result's dtype costs at most 2**-8 (bf16) or 2**-11 (fp16) of the value. The rest covers fp32
# arithmetic, whose error in the norm grows with the ratio of a row's mean to its deviation, here at most 50.
MODULATE_TOLERANCE = {
    torch.float32: Tol(5e-5, 1e-5),
    torch.bfloat16: Tol(5e-5, 2**-8 + 1e-5),
    torch.float16: Tol(5e-5, 2**-11 + 1e-5),
}
RESIDUAL_TOLERANCE = {
    torch.float32: Tol(1e-6, 1e-6),
    torch.bfloat16: Tol(1e-6, 2**-8 + 1e-6),
    torch.float16: Tol(1e-6, 2**-11 + 1e-6),
}

# (mean, deviation) of the tokens, in turn. For the norm: tokens that reveal a wrong eps (deviation near sqrt(eps)), and
# tokens for which a variance computed as E[x^2] - E[x]^2 cancels (mean far from 0).
NORM_TOKENS = ((0.0, 1.0), (0.0, 1e-3), (500.0, 10.0))
PLAIN_TOKENS = ((0.0, 1.0),)


def _tokens(
    shape: Shape,
    profiles: tuple[tuple[float, float], ...],
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Tensor:
    """Draw (R, l, C) with NaN in the P channels between rows."""
    rows, tokens, channels = shape["R"], shape["l"], shape["C"]
    turn = torch.arange(rows * tokens) % len(profiles)
    mean, deviation = torch.tensor(profiles)[turn].view(rows, tokens, 1, 2).unbind(-1)
    memory = torch.full((rows, tokens, channels + shape["P"]), torch.nan)
    memory[..., :channels] = mean + deviation * torch.randn(rows, tokens, channels, generator=generator)
    return memory.to(device, dtype)[..., :channels]


def _modulation(shape: Shape, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw (M, 1, C), the last of S vectors of every row; the other vectors are NaN."""
    memory = torch.full((shape["M"], 1, shape["S"], shape["C"]), torch.nan)
    memory[:, :, -1] = torch.randn(shape["M"], 1, shape["C"], generator=generator)
    return memory.to(device, dtype)[:, :, -1]


def _modulate_inputs(
    shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> dict[str, Any]:
    return {
        "x_RlC": _tokens(shape, NORM_TOKENS, dtype, device, generator),
        "scale_R1C": _modulation(shape, dtype, device, generator),
        "shift_R1C": _modulation(shape, dtype, device, generator),
        "eps": MODEL_EPS,
    }


def _residual_inputs(
    shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> dict[str, Any]:
    return {
        "x_RlC": _tokens(shape, PLAIN_TOKENS, dtype, device, generator),
        "gate_R1C": _modulation(shape, dtype, device, generator),
        "branch_RlC": _tokens(shape, PLAIN_TOKENS, dtype, device, generator),
    }


def _elements(shape: Shape) -> int:
    return shape["R"] * shape["l"] * shape["C"]


def _modulate_flops(shape: Shape) -> int:
    # per element: sum, centre, square and sum, normalise, scale, shift; per modulation element: 1 + scale
    return 7 * _elements(shape) + shape["M"] * shape["C"]


def _modulate_bytes(shape: Shape, itemsize: int) -> int:
    return itemsize * (2 * _elements(shape) + 2 * shape["M"] * shape["C"])


def _residual_flops(shape: Shape) -> int:
    return 2 * _elements(shape)


def _residual_bytes(shape: Shape, itemsize: int) -> int:
    return itemsize * (3 * _elements(shape) + shape["M"] * shape["C"])


MODULATE = KernelSpec(
    name="adaln_modulate",
    reference="arvbench.kernels.adaln.reference:adaln_modulate",
    fast="arvbench.kernels.adaln.triton:adaln_modulate",
    make_inputs=_modulate_inputs,
    workloads=WORKLOADS,
    tolerance=MODULATE_TOLERANCE,
    flops=_modulate_flops,
    bytes_moved=_modulate_bytes,
    limits=Limits(registers=80, shared_bytes=32),  # shared: one fp32 per warp for the sums
)

RESIDUAL = KernelSpec(
    name="adaln_residual",
    reference="arvbench.kernels.adaln.reference:adaln_residual",
    fast="arvbench.kernels.adaln.triton:adaln_residual",
    make_inputs=_residual_inputs,
    workloads=WORKLOADS,
    tolerance=RESIDUAL_TOLERANCE,
    flops=_residual_flops,
    bytes_moved=_residual_bytes,
    limits=Limits(registers=56, shared_bytes=0),
)
