"""Attention between the tokens of all scales in plain PyTorch: the definition, and its gradient by autograd.

Shapes   R rows, H heads, L tokens of all scales, D head channels
Source   training masks of VAR (arXiv:2404.02905) section 3.3 and HMAR (arXiv:2506.04421)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scales:
    """Extent of every scale in the sequence, and which scales its tokens see."""

    offsets: tuple[int, ...]
    """First token of every scale, then L: (0, 1, 5, 14) for sides 1, 2, 3."""
    causal: bool
    """True: tokens see their own and all earlier scales (VAR); False: only their own (HMAR, M-VAR)."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Number of tokens of every scale."""
        return tuple(end - start for start, end in zip(self.offsets, self.offsets[1:], strict=False))


def block_sparse_attention(
    q_RHLD: Tensor, k_RHLD: Tensor, v_RHLD: Tensor, scales: Scales, softmax_scale: float
) -> Tensor:
    """Return softmax(q k' * softmax_scale) v over the tokens that each token sees, (R, H, L, D)."""
    bias_LL = _bias(scales, q_RHLD)
    return F.scaled_dot_product_attention(q_RHLD, k_RHLD, v_RHLD, attn_mask=bias_LL, scale=softmax_scale)


def block_sparse_attention_backward(
    grad_RHLD: Tensor, q_RHLD: Tensor, k_RHLD: Tensor, v_RHLD: Tensor, scales: Scales, softmax_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, given that of the result."""
    with torch.enable_grad():
        q, k, v = (operand.detach().requires_grad_() for operand in (q_RHLD, k_RHLD, v_RHLD))
        out_RHLD = block_sparse_attention(q, k, v, scales, softmax_scale)
        grad_q, grad_k, grad_v = torch.autograd.grad(out_RHLD, (q, k, v), grad_RHLD)
    return grad_q, grad_k, grad_v


def _bias(scales: Scales, like: Tensor) -> Tensor:
    """Additive mask (1, 1, L, L): 0 for tokens that are seen, -inf for others."""
    tokens = torch.tensor(scales.tokens, device=like.device)
    level_L = torch.arange(len(tokens), device=like.device).repeat_interleave(tokens, output_size=sum(scales.tokens))
    hidden_LL = torch.lt if scales.causal else torch.ne
    bias_LL = torch.zeros(len(level_L), len(level_L), dtype=like.dtype, device=like.device)
    return bias_LL.masked_fill_(hidden_LL(level_L[:, None], level_L[None]), -torch.inf)[None, None]
