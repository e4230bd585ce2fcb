"""Blocks of the adaLN transformer of VAR, shared by M-VAR, HMAR and FlexVAR.

Shapes   R forward rows, l new tokens, T tokens attended to, C width, H heads, D head channels, F hidden width
Names    modules have the names of the official state dicts
Source   VAR (arXiv:2404.02905) section 3.3; DiT (arXiv:2212.09748) for adaLN; behaviour of FoundationVision/VAR at
         78b9539
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache.policy import NO_SLOTS, AttentionInput, KVCache
from arvbench.adapters.common.linear import GeluLinear
from arvbench.kernels.block_sparse_attention.reference import Scales
from arvbench.kernels.dispatch import KernelSet

MAX_LOG_SCALE = math.log(100)
SHORTEST = 1e-12
"""Length that shorter queries and keys are divided by, that of F.normalize."""
Mask = Tensor | Scales
"""Limits of attention: an additive bias (1, 1, l, T), or, for a kernel, the scales of a whole sequence."""


class SelfAttention(nn.Module):
    """Multi-head attention with query and value bias, optionally on L2-normalised queries and keys.

    With `l2_norm` a learnt scale per head (log domain, at most 100) replaces the softmax scale. Without it the softmax
    scale is 0.25 / sqrt(D), not 1 / sqrt(D).
    """

    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int, *, l2_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads
        self.l2_norm = l2_norm
        self.softmax_scale = 1.0 if l2_norm else 0.25 / math.sqrt(self.head_dim)
        if l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4)))
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x_RlC: Tensor,
        kernels: KernelSet | None = None,
        *,
        layer: int = 0,
        cache: KVCache | None = None,
        mask: Mask | None = None,
    ) -> Tensor:
        """Attend to the tokens in `cache` (None: only those of x) under `mask`; (R, l, C). Scales need `kernels`, and a
        cache without earlier tokens.

        A kernel of `kernels` stores keys and values itself, where the cache lets it and nothing is hidden.
        """
        rows, tokens, width = x_RlC.shape
        qkv_bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        qkv = F.linear(x_RlC, self.mat_qkv.weight, qkv_bias).view(rows, tokens, 3, self.heads, self.head_dim)
        if kernels is not None and kernels.names["scale_attention"] != "torch" and mask is None:
            slots = NO_SLOTS if cache is None else cache.slots(layer, tokens)
            if slots is not None:
                log_scale = self.scale_mul_1H11 if self.l2_norm else None
                attended_RlC: Tensor = self.proj(kernels.scale_attention(qkv, log_scale, *slots, self.softmax_scale))
                return attended_RlC
        if self.l2_norm:
            qkv = self._normalised(qkv)
        q_RHlD, k_RHlD, v_RHlD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if isinstance(mask, Scales):
            assert kernels is not None
            if cache is not None:  # empty before: the scales are those of all its tokens
                cache.extend(layer, k_RHlD, v_RHlD)
            out = kernels.block_sparse_attention(q_RHlD, k_RHlD, v_RHlD, mask, self.softmax_scale)
        elif cache is None:
            out = F.scaled_dot_product_attention(q_RHlD, k_RHlD, v_RHlD, attn_mask=mask, scale=self.softmax_scale)
        else:
            new = AttentionInput(q_RHlD, k_RHlD, v_RHlD, self.softmax_scale, mask, lambda: self.queries(x_RlC))
            out = cache.attend(layer, new)
        projected_RlC: Tensor = self.proj(out.transpose(1, 2).reshape(rows, tokens, width))
        return projected_RlC

    def _normalised(self, qkv_Rl3HD: Tensor) -> Tensor:
        """Return queries and keys of unit length, queries times the learnt scale, and the values.

        They take the place of the given ones where no gradient asks for those: memory is written once less.
        """
        scale_H1 = self.scale_mul_1H11.clamp_max(MAX_LOG_SCALE).exp().view(self.heads, 1)
        qk_Rl2HD = qkv_Rl3HD[:, :, :2]
        length_Rl2H1 = torch.linalg.vector_norm(qk_Rl2HD, dim=-1, keepdim=True).clamp_min(SHORTEST)
        if torch.is_grad_enabled():
            q_RlHD, k_RlHD = (qk_Rl2HD / length_Rl2H1).unbind(2)
            return torch.stack((q_RlHD * scale_H1, k_RlHD, qkv_Rl3HD[:, :, 2]), dim=2)
        qk_Rl2HD.div_(length_Rl2H1)
        qk_Rl2HD[:, :, 0].mul_(scale_H1)
        return qkv_Rl3HD

    def queries(self, x_RlC: Tensor) -> Tensor:
        """Bare projection (R, H, l, D) of x to queries, without bias and norm, by which ScaleKV scores keys."""
        q_RlC = F.linear(x_RlC, self.mat_qkv.weight[: self.heads * self.head_dim])
        rows, tokens = x_RlC.shape[:2]
        return q_RlC.view(rows, tokens, self.heads, self.head_dim).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = GeluLinear(width, hidden, "tanh")
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_RlC: Tensor) -> Tensor:
        out_RlC: Tensor = self.fc2(self.fc1(x_RlC))
        return out_RlC


class AdaLNBlock(nn.Module):
    """Attention and feed-forward, each modulated and gated by the condition (DiT's adaLN).

    With `shared_aln` the model computes the six vectors once and every block adds its own `ada_gss`.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, l2_norm: bool, shared_aln: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        self.attn = SelfAttention(width, heads, l2_norm=l2_norm)
        self.ffn = FeedForward(width, hidden)
        if shared_aln:
            self.ada_gss = nn.Parameter(torch.empty(1, 1, 6, width))
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def modulation(self, cond_RC: Tensor, shared_R16C: Tensor | None) -> Tensor:
        """(R, 1, 6, C): two gates (attention, feed-forward), two scales, two shifts."""
        if shared_R16C is not None:
            return self.ada_gss + shared_R16C
        modulation_R16C: Tensor = self.ada_lin(cond_RC).view(len(cond_RC), 1, 6, -1)
        return modulation_R16C

    def forward(
        self,
        x_RlC: Tensor,
        modulation_R16C: Tensor,
        kernels: KernelSet,
        *,
        layer: int = 0,
        cache: KVCache | None = None,
        mask: Mask | None = None,
    ) -> Tensor:
        gate1, gate2, scale1, scale2, shift1, shift2 = modulation_R16C.unbind(2)
        h = kernels.adaln_modulate(x_RlC, scale1, shift1, self.norm_eps)
        x_RlC = kernels.adaln_residual(x_RlC, gate1, self.attn(h, kernels, layer=layer, cache=cache, mask=mask))
        h = kernels.adaln_modulate(x_RlC, scale2, shift2, self.norm_eps)
        out_RlC: Tensor = kernels.adaln_residual(x_RlC, gate2, self.ffn(h))
        return out_RlC


class HeadNorm(nn.Module):
    """Modulation before the output head: scale and shift from the condition, no gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, cond_RC: Tensor) -> Tensor:
        """(R, 1, 2, C): scale, shift."""
        modulation_R12C: Tensor = self.ada_lin(cond_RC).view(len(cond_RC), 1, 2, -1)
        return modulation_R12C
