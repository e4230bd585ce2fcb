"""Operands of `next_scale_input` besides tokens and maps, and those that its Triton kernels can take.

Shapes   C code channels, ph pw sides of the drawn scale, qh qw sides of the next one
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ScalePlan(NamedTuple):
    """Sides of two scales in turn."""

    side: tuple[int, int]
    """(ph, pw) of the drawn tokens."""
    next_side: tuple[int, int] | None
    """(qh, qw) of the scale to predict; None after the last one, whose codes are not enlarged."""


class Blend(NamedTuple):
    """Phi: (1 - r) h + r conv3x3(h)."""

    weight_CC33: Tensor
    bias_C: Tensor
    ratio: float
    """r in 0..1."""


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNELS = (16, 32, 64)
"""Code channels that are whole tiles of the tensor cores and fit into registers."""


def unsupported(ids_Bl: Tensor, f_hat_BChw: Tensor, codebook_VC: Tensor, phi: Blend, plan: ScalePlan) -> str | None:
    """Return why the Triton kernels cannot take these operands, None if they can."""
    if f_hat_BChw.shape[1] not in CHANNELS:
        return f"code channels must be {CHANNELS}, got {f_hat_BChw.shape[1]}"
    for operand in (f_hat_BChw, codebook_VC, phi.weight_CC33, phi.bias_C):
        if operand.dtype not in DTYPES:
            return f"the Triton kernels take float32, bfloat16 and float16, got {operand.dtype}"
    return None
