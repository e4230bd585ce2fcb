"""Adaptive LayerNorm in plain PyTorch: the definition.

Shapes   R forward rows, l tokens, C channels; the modulation has R rows or 1, and one token
Range    arithmetic in at least fp32, result in x's dtype
Source   DiT (arXiv:2212.09748) section 3.2, as VAR (arXiv:2404.02905) uses it
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def adaln_modulate(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(x) * (1 + scale) + shift, (R, l, C); biased variance, no affine parameters."""
    compute = torch.promote_types(x_RlC.dtype, torch.float32)
    norm_RlC = F.layer_norm(x_RlC.to(compute), x_RlC.shape[-1:], eps=eps)
    return (norm_RlC * (1 + scale_R1C.to(compute)) + shift_R1C.to(compute)).to(x_RlC.dtype)


def adaln_residual(x_RlC: Tensor, gate_R1C: Tensor, branch_RlC: Tensor) -> Tensor:
    """Return x + gate * branch, (R, l, C)."""
    compute = torch.promote_types(x_RlC.dtype, torch.float32)
    return (x_RlC.to(compute) + gate_R1C.to(compute) * branch_RlC.to(compute)).to(x_RlC.dtype)
