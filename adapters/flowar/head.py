"""The head of FlowAR: velocities of the noisy latents of one scale, given the transformer's condition of every token.

S  `Block`: self-attention and MLP, modulated per token by time and condition.
L, H  `CrossBlock`: self-attention modulated by time, cross-attention to the conditions, MLP modulated by both.

Shapes   R rows, l tokens of a scale, K latent channels, C width of the head, Z width of the conditions, H heads,
         D head channels
Names    modules have the names of the official state dict
Source   FlowAR (arXiv:2412.15205) section 3; behaviour of wangqiang9/FlowAR at 5745a96
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.common.meta import register_constants
from arvbench.adapters.latents.blocks import (
    TIME_FEATURES,
    Attending,
    GatedMlp,
    RmsNorm,
    SelfAttention,
    TimeEmbedding,
    Turn,
    gated_hidden,
    modulate,
    rms,
    rope_frequencies,
)

HEAD_DIM = 64


class Rope(nn.Module):
    """Frequencies of one attention, a buffer of the official files; tables are made by scale."""

    freqs: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        register_constants(self, lambda: {"freqs": rope_frequencies(head_dim)})


class CrossAttention(nn.Module):
    """Queries of the noisy tokens attend to the conditions, both rotated."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(condition, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.rope = Rope(width // heads)

    def forward(self, x_RlC: Tensor, z_RlZ: Tensor, turn: Turn) -> Tensor:
        rows, tokens, width = x_RlC.shape
        shape = (rows, tokens, self.heads, width // self.heads)
        q_RHlD = turn(self.q(x_RlC).view(shape).transpose(1, 2))
        k_RHlD, v_RHlD = (t.reshape(shape).transpose(1, 2) for t in self.kv(z_RlZ).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q_RHlD, turn(k_RHlD), v_RHlD)
        projected_RlC: Tensor = self.proj(out.transpose(1, 2).reshape(rows, tokens, width))
        return projected_RlC


class Given(NamedTuple):
    """Conditions of the blocks."""

    time: Tensor
    """(R, 1, C), or (1, 1, C) for one time of all rows."""
    embedded: Tensor
    """(R, l, C): the conditions, projected to the width of the head."""
    condition: Tensor
    """(R, l, Z)."""


def _attention(width: int, heads: int) -> SelfAttention:
    attention = SelfAttention(width, heads, qkv_bias=False)
    attention.add_module("rope", Rope(width // heads))
    return attention


class Block(nn.Module):
    """Block of the S model."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.attn = _attention(width, heads)
        self.mlp = GatedMlp(width)
        self.ada_lin = nn.Linear(width, 6 * width)

    def forward(self, x_RlC: Tensor, given: Given, turn: Turn) -> Tensor:
        modulation = self.ada_lin(F.silu(given.time + given.embedded)).chunk(6, dim=-1)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        x_RlC = x_RlC + gamma1 * self.attn(modulate(x_RlC, scale1, shift1), Attending(turn))
        out_RlC: Tensor = x_RlC + gamma2 * self.mlp(modulate(x_RlC, scale2, shift2))
        return out_RlC


class CrossBlock(nn.Module):
    """Block of the L and H models."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.attn = _attention(width, heads)
        self.crossattn = CrossAttention(width, heads, condition)
        self.norm2_1 = RmsNorm(width)
        self.norm2_2 = RmsNorm(condition)
        self.mlp = GatedMlp(width)
        self.ada_lin_attn = nn.Linear(width, 3 * width)
        self.ada_lin_mlp = nn.Linear(width, 3 * width)

    def forward(self, x_RlC: Tensor, given: Given, turn: Turn) -> Tensor:
        gamma1, scale1, shift1 = self.ada_lin_attn(F.silu(given.time)).chunk(3, dim=-1)
        x_RlC = x_RlC + gamma1 * self.attn(modulate(x_RlC, scale1, shift1), Attending(turn))
        x_RlC = x_RlC + self.crossattn(self.norm2_1(x_RlC), self.norm2_2(given.condition), turn)
        gamma2, scale2, shift2 = self.ada_lin_mlp(F.silu(given.embedded + given.time)).chunk(3, dim=-1)
        out_RlC: Tensor = x_RlC + gamma2 * self.mlp(modulate(x_RlC, scale2, shift2))
        return out_RlC


class FinalLayer(nn.Module):
    """Norm, modulation without a gate, projection to latents."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, latent_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_RlC: Tensor, condition_RlC: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition_RlC).chunk(2, dim=-1)
        v_RlK: Tensor = self.linear(rms(x_RlC) * (1 + scale) + shift)
        return v_RlK


class FlowHead(nn.Module):
    """The head; `cross` chooses its blocks."""

    def __init__(self, latent_dim: int, condition: int, width: int, blocks: int, *, cross: bool) -> None:
        super().__init__()
        heads = width // HEAD_DIM
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(condition, width)
        self.input_proj = nn.Linear(latent_dim, width)
        block: type[Block | CrossBlock] = CrossBlock if cross else Block
        self.res_blocks = nn.ModuleList(block(width, heads, condition) for _ in range(blocks))
        self.final_layer = FinalLayer(width, latent_dim)

    def forward(self, x_RlK: Tensor, features_X256: Tensor, z_RlZ: Tensor, turn: Turn) -> Tensor:
        """Velocities (R, l, K) fp32 at the times whose tables are (1, 1, 256), or (R, 1, 256) where rows differ."""
        x_RlC = self.input_proj(x_RlK.to(self.input_proj.weight.dtype))
        given = Given(self.time_embed(features_X256), self.cond_embed(z_RlZ), z_RlZ)
        for block in cast(Iterable[Block | CrossBlock], self.res_blocks):
            x_RlC = block(x_RlC, given, turn)
        v_RlK: Tensor = self.final_layer(x_RlC, given.time + given.embedded).float()
        return v_RlK


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowHeadCost:
    """Work of one evaluation of the head."""

    latent_dim: int
    condition: int
    width: int
    blocks: int
    cross: bool

    def flops(self, *, rows: int, tokens: int) -> int:
        """FLOPs for the `tokens` of a scale in every row, at one time."""
        width = self.width
        block = 8 * width**2 + 6 * width * gated_hidden(width) + 4 * tokens * width
        # Modulations per token, all six of S and the MLP's three of the others.
        cross = 10 * width**2 + 4 * width * self.condition + 4 * tokens * width
        block += cross if self.cross else 12 * width**2
        per_token = self.blocks * block + 2 * width * (2 * self.latent_dim + self.condition) + 4 * width**2
        by_time = 2 * width * (TIME_FEATURES + width) + (self.blocks * 6 * width**2 if self.cross else 0)
        return rows * tokens * per_token + by_time

    @property
    def launches(self) -> int:
        """Kernels that wait for each other: input, those of the blocks, output."""
        return 2 + (8 if self.cross else 5) * self.blocks

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights."""
        width, hidden = self.width, gated_hidden(self.width)
        block = 10 * width**2 + 8 * width + 3 * width * hidden + 2 * hidden
        if self.cross:
            block += 2 * width**2 + 2 * width * self.condition + 2 * width + self.condition
        ends = width * (2 * self.latent_dim + self.condition) + 2 * width**2 + 4 * width + self.latent_dim
        times = width * (TIME_FEATURES + width) + 2 * width
        return itemsize * (self.blocks * block + ends + times)
