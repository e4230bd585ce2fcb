"""From the tokens of one scale to the input of the next in plain PyTorch: the definition.

Shapes   B images, l = ph * pw drawn tokens, V codebook entries, C code channels, h w sides of the map (those of the
         last scale), qh qw sides of the next scale
Source   VAR (arXiv:2404.02905) section 3.2, algorithms 1 and 2; behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from arvbench.kernels.next_scale_input.plan import Blend, ScalePlan


def next_scale_input(ids_Bl: Tensor, f_hat_BChw: Tensor, codebook_VC: Tensor, phi: Blend, plan: ScalePlan) -> Tensor:
    """Add the codes of one scale to `f_hat`, in place; return it averaged down to the next scale, (B, qh * qw, C).

    After the last scale the result has no tokens.
    """
    codes_BCpp = F.embedding(ids_Bl, codebook_VC).transpose(1, 2).unflatten(2, plan.side)
    if plan.next_side is not None:
        codes_BCpp = F.interpolate(codes_BCpp, size=f_hat_BChw.shape[2:], mode="bicubic")
    weight, bias = phi.weight_CC33.to(codes_BCpp.dtype), phi.bias_C.to(codes_BCpp.dtype)
    blended_BChw = F.conv2d(codes_BCpp, weight, bias, padding=1)
    f_hat_BChw.add_(codes_BCpp.mul(1 - phi.ratio) + blended_BChw.mul(phi.ratio))
    if plan.next_side is None:
        return f_hat_BChw.new_empty((len(f_hat_BChw), 0, f_hat_BChw.shape[1]))
    return F.interpolate(f_hat_BChw, size=plan.next_side, mode="area").flatten(2).transpose(1, 2)
