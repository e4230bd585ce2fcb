"""Blocks of the transformers with continuous tokens: attention and MLPs, plain, or rotary and modulated by a condition.

Shapes   R forward rows, n groups of tokens with a condition each, l new tokens, T tokens attended to, C width, H heads,
         D head channels, t times
Names    modules have the names of the official state dicts
Source   behaviour of OliverRensu/xAR at 121e9c9, wangqiang9/FlowAR at 5745a96, LTH14/mar at fe470ac
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache.policy import AttentionInput, KVCache
from arvbench.adapters.common.linear import GeluLinear
from arvbench.adapters.common.rotary import rotate

EPS = 1e-6
"""Of all norms."""
TIME_FEATURES = 256
"""Entries of the table of a time: cosines first, then sines."""
_LONGEST = 10_000.0


def rms(x: Tensor) -> Tensor:
    """Return x over its root mean square, in fp32, rounded to the input's dtype."""
    wide = x.float()
    return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + EPS)).to(x.dtype)


class RmsNorm(nn.Module):
    """`rms` with a learnt factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name."""
        return {"weight": torch.ones_like(self.weight)}

    def forward(self, x: Tensor) -> Tensor:
        return rms(x) * self.weight


class LayerNorm(nn.LayerNorm):
    """Layer norm with a learnt factor and shift per channel."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name."""
        return {"weight": torch.ones_like(self.weight)}


def time_features(times_t: Tensor) -> Tensor:
    """Table (t, 256) fp32 of times in [0, 1], any shape before: the official code truncates 1000 t to an integer."""
    return number_features((times_t.float() * 1000).trunc())


def number_features(numbers_t: Tensor) -> Tensor:
    """Table (t, 256) fp32 of numbers of steps, any shape before."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(_LONGEST) * torch.arange(half, device=numbers_t.device) / half)
    angles = numbers_t.float().unsqueeze(-1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimeEmbedding(nn.Module):
    """Linear, SiLU, linear on the table of a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, features_t256: Tensor) -> Tensor:
        embedded_tC: Tensor = self.mlp(features_t256.to(next(self.parameters()).dtype))
        return embedded_tC


def rope_frequencies(head_dim: int) -> Tensor:
    """(D / 4,) fp32: one frequency per channel pair of the row's half, and again of the column's."""
    pairs = head_dim // 4
    return 1.0 / _LONGEST ** (torch.arange(pairs, dtype=torch.float32) * 2 / (head_dim // 2))


def rope_tables(frequencies_P: Tensor, rows_l: Tensor, columns_l: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (l, D) of places on the map: the first half of the channels turns with the row."""
    angles_lD = torch.cat([torch.outer(at_l, frequencies_P).repeat_interleave(2, 1) for at_l in (rows_l, columns_l)], 1)
    return angles_lD.cos(), angles_lD.sin()


class Turn(NamedTuple):
    """Rotation of queries and keys: cosine and sine of every pair of channels, (l, D / 2, 2) fp32."""

    rope_lP2: Tensor

    @classmethod
    def of_tables(cls, cos_lD: Tensor, sin_lD: Tensor) -> Turn:
        """Return the rotation of tables that name both channels of a pair."""
        return cls(torch.stack((cos_lD[:, ::2], sin_lD[:, ::2]), dim=-1))

    def __call__(self, x_RHlD: Tensor) -> Tensor:
        return rotate(x_RHlD, self.rope_lP2)


class Attending(NamedTuple):
    """Input of the attention of a pass beside its tokens."""

    turn: Turn | None = None
    """None: positions are embedded in the tokens."""
    cache: KVCache | None = None
    """None: attention sees the tokens of the pass."""
    kept: int = 0
    """First tokens of the pass whose keys and values stay in the cache."""
    mask_lT: Tensor | None = None
    """True where a token may attend."""


class SelfAttention(nn.Module):
    """Multi-head attention, with rotary positions or without."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x_RlC: Tensor, how: Attending, layer: int = 0) -> Tensor:
        rows, tokens, width = x_RlC.shape
        qkv = self.qkv(x_RlC).view(rows, tokens, 3, self.heads, width // self.heads)
        q_RHlD, k_RHlD, v_RHlD = qkv.permute(2, 0, 3, 1, 4)
        if how.turn is not None:
            q_RHlD, k_RHlD = how.turn(q_RHlD), how.turn(k_RHlD)
        if how.cache is None:
            out = F.scaled_dot_product_attention(q_RHlD, k_RHlD, v_RHlD, attn_mask=how.mask_lT)
        else:
            new = AttentionInput(q_RHlD, k_RHlD, v_RHlD, bias_llT=how.mask_lT)
            out = how.cache.attend_keeping(layer, new, how.kept)
        projected_RlC: Tensor = self.proj(out.transpose(1, 2).reshape(rows, tokens, width))
        return projected_RlC


def gated_hidden(width: int) -> int:
    """Hidden channels of the gated MLP."""
    return int(width * 8 / 3)


class GatedMlp(nn.Module):
    """fc2(GELU(fc1_g x) * fc1_x x), with the exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = gated_hidden(width)
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_RlC: Tensor) -> Tensor:
        out_RlC: Tensor = self.fc2(F.gelu(self.fc1_g(x_RlC)) * self.fc1_x(x_RlC))
        return out_RlC


MLP_RATIO = 4
"""Hidden channels of the plain MLP over its width."""


class Mlp(nn.Module):
    """fc2(GELU(fc1 x)); the exact GELU, or its tanh form."""

    def __init__(self, width: int, *, tanh: bool = False) -> None:
        super().__init__()
        self.fc1 = GeluLinear(width, MLP_RATIO * width, "tanh" if tanh else "none")
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x_RlC: Tensor) -> Tensor:
        out_RlC: Tensor = self.fc2(self.fc1(x_RlC))
        return out_RlC


class PlainBlock(nn.Module):
    """Attention and MLP behind layer norms, without a condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attn = SelfAttention(width, heads, qkv_bias=True)
        self.mlp = Mlp(width)

    def forward(self, x_RlC: Tensor) -> Tensor:
        x_RlC = x_RlC + self.attn(self.norm1(x_RlC), Attending())
        out_RlC: Tensor = x_RlC + self.mlp(self.norm2(x_RlC))
        return out_RlC


def plain_block_flops(width: int, tokens: int) -> int:
    """FLOPs of a block of a plain MLP on one row of `tokens` that see each other."""
    return tokens * (8 + 4 * MLP_RATIO) * width**2 + 4 * tokens**2 * width


def plain_block_weights(width: int) -> int:
    """Weights and biases of a `PlainBlock`."""
    return (4 + 2 * MLP_RATIO) * width**2 + (4 + MLP_RATIO + 1 + 4) * width


PLAIN_BLOCK_LAUNCHES = 5
"""Kernels of a block that wait for each other."""


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the norm of x, scaled and shifted by a condition."""
    return rms(x) * (1 + scale) + shift


class ConditionedBlock(nn.Module):
    """Attention and MLP, each modulated and gated by the condition of a token's group (DiT's adaLN, with RMS norms)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, qkv_bias=True)
        self.mlp = GatedMlp(width)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x_RlC: Tensor, condition_RnC: Tensor, how: Attending, layer: int = 0) -> Tensor:
        groups = condition_RnC.shape[1]
        modulation = self.ada_lin(condition_RnC).unflatten(-1, (6, 1, -1)).unbind(2)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        x = x_RlC.unflatten(1, (groups, -1))
        attended_RlC = self.attn(modulate(x, scale1, shift1).flatten(1, 2), how, layer)
        x = x + gamma1 * attended_RlC.unflatten(1, (groups, -1))
        x = x + gamma2 * self.mlp(modulate(x, scale2, shift2))
        out_RlC: Tensor = x.flatten(1, 2)
        return out_RlC


def block_causal(sizes: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Boolean mask (L, L): a token attends to its own group of tokens and to earlier ones."""
    numbers_L = torch.cat([torch.full((size,), i, device=device) for i, size in enumerate(sizes)])
    return numbers_L[:, None] >= numbers_L[None]
