"""RMSNorm behind a gate in plain PyTorch: the definition.

Shapes   R forward rows, l tokens, E channels
Range    arithmetic in at least fp32; the result has the dtype of the gate, in which the next projection reads it
Source   Mamba-2 (arXiv:2405.21060) section 7; behaviour of state-spaces/mamba at e9594ce (`norm_before_gate=False`)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm_gated(y_RlE: Tensor, z_RlE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """Return RMSNorm(y silu(z)) * weight, (R, l, E) in z's dtype."""
    compute = torch.promote_types(y_RlE.dtype, torch.float32)
    gated_RlE = y_RlE.to(compute) * F.silu(z_RlE.to(compute))
    return F.rms_norm(gated_RlE, gated_RlE.shape[-1:], weight_E.to(compute), eps).to(z_RlE.dtype)
