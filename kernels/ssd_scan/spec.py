"""Mamba-2's scan: workloads, tolerances and cost.

Shapes   R forward rows (twice the images with guidance), l tokens of one step, H heads, P head channels, N state
         channels, K convolution taps, f 1 for a first step (states of zeros), S 1 for heads that forget at once
Source   M-VAR model zoo: H = 2 * depth heads of 64, N = 64, K = 4; scales of 1..256 tokens at 256 px
"""

from __future__ import annotations

from typing import Any

import torch

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload
from arvbench.kernels.ssd_scan.weights import ScanWeights, unsupported

_PLAIN = {"P": 64, "N": 64, "K": 4, "f": 0, "S": 0}

WORKLOADS = {
    # official models: guidance doubles 8 images
    "d12-last": Workload(shape=_PLAIN | {"R": 16, "l": 256, "H": 24}),
    "d16-first": Workload(shape=_PLAIN | {"R": 16, "l": 1, "H": 32, "f": 1}),
    "d16-one-image-last": Workload(shape=_PLAIN | {"R": 2, "l": 256, "H": 32}),
    "d16-last": Workload(shape=_PLAIN | {"R": 16, "l": 256, "H": 32}, compile=True),
    "d20-middle": Workload(shape=_PLAIN | {"R": 16, "l": 36, "H": 40}),
    "d24-middle": Workload(shape=_PLAIN | {"R": 16, "l": 100, "H": 48}),
    "d30-last": Workload(shape=_PLAIN | {"R": 16, "l": 256, "H": 60}),
    "d32-middle": Workload(shape=_PLAIN | {"R": 16, "l": 4, "H": 64}),
    "d16-head": Workload(shape=_PLAIN | {"R": 1, "l": 70, "H": 1}, interpret=True),
    # edge cases
    "demo": Workload(shape=_PLAIN | {"R": 2, "l": 9, "H": 4, "P": 32, "N": 16}, interpret=True),
    "one-token": Workload(shape=_PLAIN | {"R": 1, "l": 1, "H": 2, "P": 16, "N": 16, "f": 1}, interpret=True),
    "fewer-tokens-than-taps": Workload(shape=_PLAIN | {"R": 2, "l": 2, "H": 1, "P": 16, "N": 16}, interpret=True),
    "chunks-with-a-rest": Workload(shape=_PLAIN | {"R": 1, "l": 150, "H": 2, "P": 16, "N": 32}, interpret=True),
    "strong-decay": Workload(shape=_PLAIN | {"R": 1, "l": 40, "H": 2, "P": 16, "N": 16, "S": 1}, interpret=True),
}

# y and S are sums of up to 256 products of order 1, added to products with S; in 16 bits the convolved channels have a
# relative error of 2**-9 (bf16) or TF32's 2**-10, in every term of those sums.
TOLERANCE = {
    torch.float32: Tol(1e-4, 1e-4),
    torch.bfloat16: Tol(2**-4, 2**-6),
    torch.float16: Tol(2**-6, 2**-8),
}


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    rows, tokens, H, P, N, K = (shape[letter] for letter in "RlHPNK")
    M = H * P + 2 * N

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    # One projection holds the gate (here NaN), the channels and the step sizes, as the model's does.
    projected = torch.full((rows, tokens, H * P + M + H), torch.nan)
    projected[..., H * P :] = normal(rows, tokens, M + H)
    _, new_RlM, dt_RlH = projected.to(device, dtype).split((H * P, M, H), dim=2)
    step_H = torch.linspace(1e-3, 0.1, H) if not shape["S"] else torch.linspace(5.0, 80.0, H)
    weights = ScanWeights(
        conv_M1K=0.5 * normal(M, 1, K),
        conv_bias_M=0.1 * normal(M),
        dt_bias_H=step_H + (-torch.expm1(-step_H)).log(),
        A_log_H=torch.linspace(1, 16, H).log(),
        D_H=normal(H),
    )
    before = 0.0 if shape["f"] else 1.0
    return {
        "new_RlM": new_RlM,
        "dt_RlH": dt_RlH,
        "weights": ScanWeights(*(weight.to(device, dtype) for weight in weights)),
        "conv_RMK": (before * normal(rows, M, K)).to(device, dtype),
        "ssm_RHPN": (before * normal(rows, H, P, N)).to(device),
    }


def _flops(shape: Shape) -> int:
    # per token: convolution, then products inside a chunk of up to 32 tokens, with the state and into it
    tokens, inner, N = shape["R"] * shape["l"], shape["H"] * shape["P"], shape["N"]
    chunk = min(shape["l"], 32)
    return tokens * (2 * shape["K"] * (inner + 2 * N) + 2 * chunk * (N + inner) + 4 * N * inner)


def _bytes(shape: Shape, itemsize: int) -> int:
    # channels in, y out, both states in and out
    rows, inner, N = shape["R"], shape["H"] * shape["P"], shape["N"]
    channels = inner + 2 * N
    tokens = rows * shape["l"] * (channels + shape["H"] + inner)
    return itemsize * (tokens + 2 * rows * (channels * shape["K"] + inner * N))


SCAN = KernelSpec(
    name="ssd_scan",
    reference="arvbench.kernels.ssd_scan.reference:ssd_scan",
    fast="arvbench.kernels.ssd_scan.triton:ssd_scan",
    make_inputs=_inputs,
    workloads=WORKLOADS,
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    mutates=("conv_RMK", "ssm_RHPN"),
    supports=unsupported,
    limits=Limits(registers=255, shared_bytes=100 * 1024, tensor_cores=True),
)
