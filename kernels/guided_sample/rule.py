"""Operands of `guided_sample` besides logits, and its result; shared by its implementations.

Shapes   B images, l tokens of one step, V codebook entries, K channels of the table
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from arvbench.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRule:
    """The distribution that tokens are drawn from. Raises ContractError for values out of range."""

    mix: Literal["extrapolate", "interpolate"] = "extrapolate"
    """extrapolate: (1 + t) cond - t uncond, as VAR. interpolate: uncond + t (cond - uncond), as LlamaGen."""
    temperature: float = 1.0
    """Divides the guided logits, > 0."""
    top_k: int = 0
    """Tokens that survive, and all tied with the last of them; 0 keeps all."""
    top_p: float = 1.0
    """Nucleus in 0..1, of what top-k leaves; the most likely token always survives; 1 keeps all."""
    nucleus: Literal["below", "reached"] = "below"
    """A token survives while the more likely ones sum to less than top_p (VAR) or to no more than it (LlamaGen). Of
    equally likely ones at the border the last survive (below) or the first (reached), as a stable sort leaves them.
    """

    def __post_init__(self) -> None:
        if not torch.finfo(torch.float32).tiny <= self.temperature < float("inf"):
            raise ContractError(f"temperature must be a positive fp32 number, got {self.temperature}")
        if self.top_k < 0:
            raise ContractError(f"top_k must be 0 or more, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ContractError(f"top_p must be in 0..1, got {self.top_p}")


class Counter(NamedTuple):
    """Random numbers that the operation draws itself, those of `arvbench.kernels.counter.uniforms`."""

    keys_B: Tensor
    """int64, from `image_keys`."""
    step: int


class Draw(NamedTuple):
    """Outcome of one step."""

    ids_Bl: Tensor
    """int64, always in 0..V - 1."""
    failed_Bl: Tensor
    """bool: the logits have no softmax (NaN, infinity, or nothing that may be drawn), so the id means nothing. The host
    looks at this once after a call.
    """
    probability_Bl: Tensor
    """fp32 at least: probability of the id among the survivors; 0 where the draw failed."""
    codes_BlK: Tensor
    """Row of the table at each id; K = 0 without a table."""


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_ENTRIES = 2**14
"""Logits of one token that fit into the registers of one program."""


def unsupported(
    logits_RlV: Tensor,
    strength: Tensor | None,
    noise: Tensor | Counter | None,
    rule: SampleRule,
    table_VK: Tensor | None = None,
) -> str | None:
    """Return why the Triton kernel cannot take these operands, None if it can."""
    if logits_RlV.shape[-1] > MOST_ENTRIES:
        return f"the Triton kernel takes up to {MOST_ENTRIES} entries, got {logits_RlV.shape[-1]}"
    for operand in (logits_RlV, *([] if table_VK is None else [table_VK])):
        if operand.dtype not in DTYPES:
            return f"the Triton kernel takes float32, bfloat16 and float16, got {operand.dtype}"
        if operand.shape[-1] > 1 and operand.stride(-1) != 1:
            return f"entries and channels must be adjacent in memory, got strides {operand.stride()}"
    return None
