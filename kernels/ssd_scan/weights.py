"""Weights of `ssd_scan` and the operands that its Triton kernel can take.

Shapes   H heads, P head channels, N state channels, M convolved channels, K convolution taps
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ScanWeights(NamedTuple):
    """Weights of one mixer between its two projections, in one dtype."""

    conv_M1K: Tensor
    """Taps of the depthwise convolution, oldest first."""
    conv_bias_M: Tensor
    dt_bias_H: Tensor
    A_log_H: Tensor
    """log(-A)."""
    D_H: Tensor
    """Weight of x itself in y."""


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTHS = (16, 32, 64)
"""Head and state channels that are whole tiles of the tensor cores and fit into registers."""


def unsupported(
    new_RlM: Tensor, dt_RlH: Tensor, weights: ScanWeights, conv_RMK: Tensor, ssm_RHPN: Tensor
) -> str | None:
    """Return why the Triton kernel cannot take these operands, None if it can."""
    widths = ssm_RHPN.shape[2:]
    if any(width not in WIDTHS for width in widths):
        return f"head and state channels must be {WIDTHS}, got {tuple(widths)}"
    for operand in (new_RlM, dt_RlH, conv_RMK, *weights):
        if operand.dtype not in DTYPES:
            return f"the Triton kernel takes float32, bfloat16 and float16, got {operand.dtype}"
    if ssm_RHPN.dtype != torch.float32:
        return f"the Triton kernel keeps its state in float32, got {ssm_RHPN.dtype}"
    if new_RlM.stride(-1) != 1 or (dt_RlH.shape[-1] > 1 and dt_RlH.stride(-1) != 1):
        return f"channels must be adjacent in memory, got strides {new_RlM.stride()} and {dt_RlH.stride()}"
    return None
