"""Functions that stand for Triton kernels on a CPU: right ones, wrong ones, and one that does not fit the GPU."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
from torch import Tensor

from arvbench.adapters.nar import DEMO, NarConfig
from arvbench.adapters.token_grid.llama import DEMO_SIZES
from arvbench.kernels import KERNELS
from arvbench.kernels.backends import BACKENDS, Backend
from arvbench.kernels.swiglu.reference import swiglu
from arvbench.kernels.wavefront_attention.reference import wavefront_attention

BACKEND = "stand-ins"
WIDE_HEADS = replace(
    DEMO,
    name="wide-heads",
    demo=False,
    transformer=NarConfig(n_layer=1, **(DEMO_SIZES | {"dim": 288, "n_head": 2})),
)
"""Heads of 144 channels, more than the kernel of attention takes."""


def stand_in(monkeypatch: pytest.MonkeyPatch, **functions: str) -> None:
    """Register the backend BACKEND, whose Triton kernels are the references, but for operation -> function here."""
    for name, spec in list(KERNELS.items()):
        module = importlib.import_module(spec.reference.rpartition(".reference:")[0] + ".spec")
        attribute = next(attribute for attribute, value in vars(module).items() if value is spec)
        fast = f"{__name__}:{functions[name]}" if name in functions else spec.reference
        monkeypatch.setattr(module, attribute, replace(spec, fast=fast))
    monkeypatch.setitem(BACKENDS, BACKEND, Backend(cuda="triton", elsewhere="triton", official=False))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def ungated(gate_RlF: Tensor, x_RlF: Tensor) -> Tensor:
    """Mix the operands up."""
    return swiglu(x_RlF, gate_RlF)


def unrotated(qkv_Rl3HD: Tensor, rope_lP2: Tensor, keys_RHTD: Tensor, values_RHTD: Tensor, filled_1: Tensor) -> Tensor:
    """Turn every token as the first one."""
    rope_lP2 = rope_lP2[:1].expand_as(rope_lP2)
    return wavefront_attention(qkv_Rl3HD, rope_lP2, keys_RHTD, values_RHTD, filled_1)


def too_large(qkv_Rl3HD: Tensor, rope_lP2: Tensor, keys_RHTD: Tensor, values_RHTD: Tensor, filled_1: Tensor) -> Tensor:
    """Launch what no GPU of an older generation has the memory for."""
    raise importlib.import_module("triton.runtime.errors").OutOfResources(73_728, 65_536, "shared memory")
