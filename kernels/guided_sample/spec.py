"""Guided sampling: workloads, tolerances and cost.

Shapes   B images, l tokens of one step, V codebook entries, K channels of the table (0: no table),
         P unused entries between two rows of logits, F images whose logits hold NaN, infinity or nothing to draw
Choices  G guidance (0 none, 1 extrapolate, 2 interpolate), T temperature and p top_p in hundredths, k top_k,
         n nucleus (0 below, 1 reached), D draw (0 greedy, 1 uniform numbers, 2 counter), Q logits are multiples of
         1 / Q, so that many tie (0: they are not rounded)
Source   vocabularies of VAR (4096), FlexVAR (8912) and LlamaGen (16384), with the settings of their official recipes
"""

from __future__ import annotations

from typing import Any

import torch

from arvbench.kernels.contract import KernelSpec, Limits, Shape, Tol, Workload
from arvbench.kernels.counter import image_keys
from arvbench.kernels.guided_sample.rule import Counter, SampleRule, unsupported

_PLAIN = {"B": 1, "l": 1, "K": 0, "P": 0, "F": 0, "G": 1, "T": 100, "p": 100, "k": 0, "n": 0, "D": 2, "Q": 0}
_VAR = _PLAIN | {"V": 4096, "K": 32, "k": 900, "p": 96}
_FLEXVAR = _PLAIN | {"V": 8912, "K": 32, "k": 900, "p": 95}
_LLAMAGEN = _PLAIN | {"V": 16384, "G": 2}
_SMALL = _PLAIN | {"V": 100, "k": 20, "p": 90}

WORKLOADS = {
    "var-256px-first": Workload(shape=_VAR | {"B": 8}),
    "var-256px-last": Workload(shape=_VAR | {"B": 8, "l": 256}),
    "var-512px-last": Workload(shape=_VAR | {"B": 2, "l": 1024}),
    "var-one-image": Workload(shape=_VAR, interpret=True, compile=True),
    "flexvar-256px-last": Workload(shape=_FLEXVAR | {"B": 8, "l": 256}),
    "flexvar-one-image": Workload(shape=_FLEXVAR | {"D": 1}, interpret=True, compile=True),
    "llamagen-batch-64": Workload(shape=_LLAMAGEN | {"B": 64}),
    "llamagen-one-image": Workload(shape=_LLAMAGEN, interpret=True),
    "nar-diagonal": Workload(shape=_LLAMAGEN | {"B": 8, "l": 16}),
    "demo-llamagen-nucleus": Workload(shape=_LLAMAGEN | {"V": 64, "T": 70, "k": 30, "p": 90, "n": 1}, interpret=True),
    # edge cases
    "no-guidance": Workload(shape=_SMALL | {"G": 0, "P": 28, "D": 1, "l": 2}, interpret=True),
    "greedy": Workload(shape=_SMALL | {"D": 0, "Q": 1}, interpret=True),
    "ties-below": Workload(shape=_SMALL | {"D": 1, "Q": 1, "K": 5}, interpret=True),
    "ties-reached": Workload(shape=_SMALL | {"D": 1, "Q": 1, "n": 1, "p": 50}, interpret=True),
    "flat": Workload(shape=_SMALL | {"V": 999, "Q": -1, "p": 50, "k": 0}, interpret=True),
    "nothing-of-the-nucleus": Workload(shape=_SMALL | {"p": 0, "D": 1, "Q": 1}, interpret=True),
    "one-entry": Workload(shape=_SMALL | {"V": 1, "k": 1}, interpret=True),
    "failed": Workload(shape=_SMALL | {"B": 3, "F": 3, "G": 0}, interpret=True),
}

# Ids and failures are exact. The probability carries the rounding of fp32 logits up to about 50 (4e-6 each, in guidance
# and temperature several times) in an exponent; the table's rows are copied. Logits in bf16 and fp16 are widened before
# any arithmetic.
TOLERANCE = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), Tol(1e-9, 4e-5))

_FAILURES = (torch.nan, torch.inf, -torch.inf)


def _inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    images, tokens, V = shape["B"], shape["l"], shape["V"]
    rows = images * (2 if shape["G"] else 1)
    memory = torch.full((rows, tokens, V + shape["P"]), torch.nan)
    logits_RlV = 3 * torch.randn(rows, tokens, V, generator=generator)
    if shape["Q"]:
        logits_RlV = (logits_RlV * shape["Q"]).round() / shape["Q"] if shape["Q"] > 0 else torch.zeros_like(logits_RlV)
    for image, value in zip(range(shape["F"]), _FAILURES, strict=False):
        logits_RlV[image, :, V // 2 if value != -torch.inf else slice(None)] = value
    memory[..., :V] = logits_RlV
    uniform_Bl = torch.rand(images, tokens, generator=generator, dtype=torch.float64).to(device)
    keys_B = image_keys(0, 2, torch.arange(images)).to(device)
    return {
        "logits_RlV": memory.to(device, dtype)[..., :V],
        "strength": torch.tensor(1.375, dtype=torch.float64, device=device) if shape["G"] else None,
        "noise": (None, uniform_Bl, Counter(keys_B, 3))[shape["D"]],
        "rule": SampleRule(
            mix="interpolate" if shape["G"] == 2 else "extrapolate",
            temperature=shape["T"] / 100,
            top_k=shape["k"],
            top_p=shape["p"] / 100,
            nucleus="reached" if shape["n"] else "below",
        ),
        "table_VK": torch.randn(V, shape["K"], generator=generator).to(device, dtype) if shape["K"] else None,
    }


def _flops(shape: Shape) -> int:
    # per entry: guidance, then maximum, exponential and sum; comparisons are not counted
    return shape["B"] * shape["l"] * shape["V"] * (6 if shape["G"] else 3)


def _bytes(shape: Shape, itemsize: int) -> int:
    # logits once, a row of the table in and out; ids, probabilities and noise are a few bytes per token
    rows = 2 if shape["G"] else 1
    return itemsize * shape["B"] * shape["l"] * (rows * shape["V"] + 2 * shape["K"])


SAMPLE = KernelSpec(
    name="guided_sample",
    reference="arvbench.kernels.guided_sample.reference:guided_sample",
    fast="arvbench.kernels.guided_sample.triton:guided_sample",
    make_inputs=_inputs,
    workloads=WORKLOADS,
    tolerance=TOLERANCE,
    flops=_flops,
    bytes_moved=_bytes,
    supports=unsupported,
    limits=Limits(registers=128, shared_bytes=128),  # shared: one 64-bit sum per warp
)
