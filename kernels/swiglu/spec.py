"""SwiGLU: workloads, tolerances and cost.

Shapes   R forward rows (twice the images with guidance), l tokens of one step, F hidden channels, P unused channels
         between two rows (F more when both operands are halves of one projection)
Source   sizes b..3b of LlamaGen, NAR and PAR; LlamaGen draws one token a step, NAR up to 16 (24 at 384 px)
"""

from __future__ import annotations

from typing import Any

import torch

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload

WORKLOADS = {
    # official models
    "llamagen-b-one-image": Workload(shape={"R": 2, "l": 1, "F": 2048, "P": 0}, interpret=True),
    "llamagen-l-batch-64": Workload(shape={"R": 128, "l": 1, "F": 2816, "P": 2816}, compile=True),
    "nar-l-diagonal": Workload(shape={"R": 16, "l": 16, "F": 2816, "P": 0}),
    "nar-xl-diagonal": Workload(shape={"R": 16, "l": 24, "F": 3584, "P": 0}),
    "nar-xxl-diagonal": Workload(shape={"R": 16, "l": 16, "F": 4096, "P": 0}),
    "par-3b": Workload(shape={"R": 64, "l": 16, "F": 8704, "P": 0}),
    # edge cases
    "ragged": Workload(shape={"R": 2, "l": 3, "F": 1025, "P": 3}, interpret=True),
    "one-channel": Workload(shape={"R": 1, "l": 2, "F": 1, "P": 0}, interpret=True),
}

# One rounding to the result's dtype costs at most 2**-8 (bf16) or 2**-11 (fp16) of the value.
TOLERANCE = {
    torch.float32: Tol(1e-6, 2e-6),
    torch.bfloat16: Tol(1e-6, 2**-8 + 2e-6),
    torch.float16: Tol(1e-6, 2**-11 + 2e-6),
}


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    F = shape["F"]
    memory = torch.full((2, shape["R"], shape["l"], F + shape["P"]), torch.nan)
    memory[..., :F] = 3 * torch.randn(2, shape["R"], shape["l"], F, generator=generator)
    gate_RlF, x_RlF = memory.to(device, dtype)[..., :F]
    return {"gate_RlF": gate_RlF, "x_RlF": x_RlF}


def _elements(shape: Shape) -> int:
    return shape["R"] * shape["l"] * shape["F"]


def _flops(shape: Shape) -> int:
    # per element: sigmoid (exponential, sum, quotient) and two products
    return 5 * _elements(shape)


def _bytes(shape: Shape, itemsize: int) -> int:
    return itemsize * 3 * _elements(shape)


SWIGLU = KernelSpec(
    name="swiglu",
    reference="arvbench.kernels.swiglu.reference:swiglu",
    fast="arvbench.kernels.swiglu.triton:swiglu",
    make_inputs=_inputs,
    workloads=WORKLOADS,
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    limits=Limits(registers=40, shared_bytes=0),
)
