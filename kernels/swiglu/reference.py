"""SwiGLU in plain PyTorch: the definition.

Shapes   R forward rows, l tokens, F hidden channels
Range    arithmetic in at least fp32, one rounding to the dtype of the operands
Source   GLU variants (arXiv:2002.05202), as LlamaGen (arXiv:2406.06525) uses it
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_RlF: Tensor, x_RlF: Tensor) -> Tensor:
    """Return silu(gate) * x, (R, l, F)."""
    compute = torch.promote_types(gate_RlF.dtype, torch.float32)
    return (F.silu(gate_RlF.to(compute)) * x_RlF.to(compute)).to(x_RlF.dtype)
