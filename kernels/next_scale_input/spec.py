"""From the tokens of one scale to the input of the next: workloads, tolerances and cost.

Shapes   B images, ph pw sides of the drawn scale, qh qw sides of the next one (0: there is none), h w sides of the map,
         V codebook entries, C code channels, P unused columns between two rows of the map
Source   VAR, M-VAR and HMAR: V = 4096, C = 32, maps of 16 at 256 px, 32 at 512 px and 64 at 1024 px
"""

from __future__ import annotations

from typing import Any

import torch

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload
from arvbench.kernels.next_scale_input.plan import Blend, ScalePlan, unsupported


def _shape(images: int, side: tuple[int, int], after: tuple[int, int], full: tuple[int, int]) -> dict[str, int]:
    (ph, pw), (qh, qw), (h, w) = side, after, full
    sides = {"ph": ph, "pw": pw, "qh": qh, "qw": qw, "h": h, "w": w}
    return {"B": images, **sides, "V": 4096, "C": 32, "P": 0}


_SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
_SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
_NONE = (0, 0)


def _pairs(prefix: str, sides: tuple[int, ...], images: int) -> dict[str, Workload]:
    """Every scale of a list with the one after it."""
    full = (sides[-1], sides[-1])
    return {
        f"{prefix}-{p}-to-{q or 'end'}": Workload(shape=_shape(images, (p, p), (q, q), full))
        for p, q in zip(sides, (*sides[1:], 0), strict=True)
    }


WORKLOADS = {
    **_pairs("256px", _SCALES_256, 8),
    **_pairs("512px", _SCALES_512, 2),
    "1024px-last": Workload(shape=_shape(1, (48, 48), (64, 64), (64, 64)), compile=True),
    # edge cases
    "demo-first": Workload(shape=_shape(2, (1, 1), (2, 2), (8, 8)) | {"V": 256, "C": 16}, interpret=True),
    "demo-ragged": Workload(shape=_shape(1, (3, 3), (6, 6), (8, 8)) | {"V": 256, "C": 16}, interpret=True),
    "demo-last": Workload(shape=_shape(2, (8, 8), _NONE, (8, 8)) | {"V": 256, "C": 16}, interpret=True),
    "overlapping-areas": Workload(shape=_shape(1, (5, 5), (7, 7), (10, 10)) | {"V": 7}, interpret=True),
    "not-square": Workload(shape=_shape(1, (2, 3), (3, 5), (5, 9)) | {"P": 7}, interpret=True),
    "one-pixel": Workload(shape=_shape(1, (1, 1), (1, 1), (1, 1)), interpret=True),
}

# Sums of 16 taps and 9 C products of order 1; the map has one rounding to its dtype, which an average passes on, and
# 16-bit weights are multiplied in TF32, whose operands have a relative error of 2**-10.
TOLERANCE = {
    torch.float32: Tol(2e-5, 2e-5),
    torch.bfloat16: Tol(2**-6, 2**-7),
    torch.float16: Tol(2**-8, 2**-9),
}


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    images, C, h, w = shape["B"], shape["C"], shape["h"], shape["w"]
    memory = torch.full((images, C, h, w + shape["P"]), torch.nan)
    memory[..., :w] = torch.randn(images, C, h, w, generator=generator)
    weight_CC33 = torch.randn(C, C, 3, 3, generator=generator) / (9 * C) ** 0.5
    return {
        "ids_Bl": torch.randint(shape["V"], (images, shape["ph"] * shape["pw"]), generator=generator).to(device),
        "f_hat_BChw": memory.to(device, dtype)[..., :w],
        "codebook_VC": torch.randn(shape["V"], C, generator=generator).to(device, dtype),
        "phi": Blend(weight_CC33.to(device, dtype), torch.randn(C, generator=generator).to(device, dtype), ratio=0.5),
        "plan": ScalePlan((shape["ph"], shape["pw"]), (shape["qh"], shape["qw"]) if shape["qh"] else None),
    }


def _flops(shape: Shape) -> int:
    # per pixel and channel: 16 taps, 9 C products, blend and sum; the average adds every pixel about once
    return shape["B"] * shape["h"] * shape["w"] * shape["C"] * (2 * 16 + 2 * 9 * shape["C"] + 5)


def _bytes(shape: Shape, itemsize: int) -> int:
    # a code vector per token in, the map in and out, the next input out, the weights once
    tokens = shape["ph"] * shape["pw"] + 2 * shape["h"] * shape["w"] + shape["qh"] * shape["qw"]
    return itemsize * (shape["B"] * tokens * shape["C"] + 9 * shape["C"] ** 2 + shape["C"])


INPUT = KernelSpec(
    name="next_scale_input",
    reference="arvbench.kernels.next_scale_input.reference:next_scale_input",
    fast="arvbench.kernels.next_scale_input.triton:next_scale_input",
    make_inputs=_inputs,
    workloads=WORKLOADS,
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    mutates=("f_hat_BChw",),
    supports=unsupported,
    limits=Limits(registers=168, shared_bytes=32 * 1024, tensor_cores=True),
)
