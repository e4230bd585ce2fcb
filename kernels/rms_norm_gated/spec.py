"""RMSNorm behind a gate: workloads, tolerances and cost.

Shapes   R forward rows (twice the images with guidance), l tokens of one step, E channels, P unused channels between
         two rows of y and of the gate
Source   M-VAR model zoo: E = 128 * depth; scales of 1..256 tokens at 256 px
"""

from __future__ import annotations

from typing import Any

import torch

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload

MODEL_EPS = 1e-5

WORKLOADS = {
    # official models: guidance doubles 8 images
    "d12-last": Workload(shape={"R": 16, "l": 256, "E": 1536, "P": 1688}),
    "d16-first": Workload(shape={"R": 16, "l": 1, "E": 2048, "P": 0}, interpret=True),
    "d16-last": Workload(shape={"R": 16, "l": 256, "E": 2048, "P": 2208}, compile=True),
    "d20-middle": Workload(shape={"R": 16, "l": 36, "E": 2560, "P": 2728}),
    "d24-middle": Workload(shape={"R": 16, "l": 100, "E": 3072, "P": 3248}),
    "d30-last": Workload(shape={"R": 16, "l": 256, "E": 3840, "P": 4028}),
    "d32-last": Workload(shape={"R": 16, "l": 256, "E": 4096, "P": 4288}, compile=True),
    # edge cases
    "ragged": Workload(shape={"R": 2, "l": 3, "E": 1001, "P": 5}, interpret=True),
    "one-channel": Workload(shape={"R": 3, "l": 4, "E": 1, "P": 0}, interpret=True),
    "one-token": Workload(shape={"R": 1, "l": 1, "E": 64, "P": 0}, interpret=True),
}

# One rounding to the result's dtype costs at most 2**-8 (bf16) or 2**-11 (fp16) of the value; fp32 sums the rest.
TOLERANCE = {
    torch.float32: Tol(1e-5, 1e-5),
    torch.bfloat16: Tol(1e-5, 2**-8 + 1e-5),
    torch.float16: Tol(1e-5, 2**-11 + 1e-5),
}

# Deviations of the tokens, in turn; the small one reveals a wrong eps.
_DEVIATIONS = torch.tensor([1.0, 3e-3, 100.0])


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    rows, tokens, E = shape["R"], shape["l"], shape["E"]
    memory = torch.full((2, rows, tokens, E + shape["P"]), torch.nan)
    memory[..., :E] = torch.randn(2, rows, tokens, E, generator=generator)
    memory[0] *= _DEVIATIONS[torch.arange(rows * tokens) % 3].view(rows, tokens, 1)
    y_RlE, z_RlE = memory.to(device, dtype)[..., :E]
    return {
        "y_RlE": y_RlE,
        "z_RlE": z_RlE,
        "weight_E": torch.randn(E, generator=generator).to(device, dtype),
        "eps": MODEL_EPS,
    }


def _elements(shape: Shape) -> int:
    return shape["R"] * shape["l"] * shape["E"]


def _flops(shape: Shape) -> int:
    # per element: sigmoid (exponential, sum, quotient), two products, square and sum, normalise, weight
    return 9 * _elements(shape)


def _bytes(shape: Shape, itemsize: int) -> int:
    return itemsize * (3 * _elements(shape) + shape["E"])


NORM = KernelSpec(
    name="rms_norm_gated",
    reference="arvbench.kernels.rms_norm_gated.reference:rms_norm_gated",
    fast="arvbench.kernels.rms_norm_gated.triton:rms_norm_gated",
    make_inputs=_inputs,
    workloads=WORKLOADS,
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    limits=Limits(registers=96, shared_bytes=32),  # shared: one fp32 per warp for the sum
)
