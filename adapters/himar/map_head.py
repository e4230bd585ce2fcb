"""Denoising head of Hi-MAR's second phase: a diffusion transformer over the whole map of tokens.

Every token has a condition of its own, the time's and the transformer's; tokens see each other in attention.

Shapes   R rows, N tokens of the map, K latent channels, h w sides of the map, C width of the head, Z width of the
         conditions
Names    modules have the names of the official state dict
Source   Hi-MAR (arXiv:2505.20288); DiT (arXiv:2212.09748); behaviour of HiDream-ai/himar at 1d378c1
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.latents.blocks import (
    EPS,
    MLP_RATIO,
    TIME_FEATURES,
    Attending,
    Mlp,
    SelfAttention,
    TimeEmbedding,
)


class Projection(nn.Module):
    """A 1x1 convolution, under the official name, on vectors of tokens."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, 1)

    def forward(self, x_RNX: Tensor) -> Tensor:
        out: Tensor = F.linear(x_RNX, self.proj.weight.flatten(1), self.proj.bias)
        return out


def _normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


class MapBlock(nn.Module):
    """Attention and MLP, each modulated and gated by the condition of a token (DiT's adaLN)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, qkv_bias=True)
        self.mlp = Mlp(width, tanh=True)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x_RNC: Tensor, condition_RNC: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition_RNC).chunk(6, dim=-1)
        x_RNC = x_RNC + gate1 * self.attn(_normed(x_RNC, shift1, scale1), Attending())
        out_RNC: Tensor = x_RNC + gate2 * self.mlp(_normed(x_RNC, shift2, scale2))
        return out_RNC


class FinalLayer(nn.Module):
    """Norm, modulation without a gate, projection."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_RNC: Tensor, condition_RNC: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition_RNC).chunk(2, dim=-1)
        out: Tensor = self.linear(_normed(x_RNC, shift, scale))
        return out


def sine_positions(side: int, width: int) -> Tensor:
    """Positions (1, N, C) fp32 of a map: sines and cosines of the column, then those of the row."""
    frequencies = 1.0 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    places = torch.arange(side, dtype=torch.float64)
    halves = []
    for at_N in (places.repeat(side), places.repeat_interleave(side)):
        angles = torch.outer(at_N, frequencies)
        halves.append(torch.cat((angles.sin(), angles.cos()), dim=1))
    return torch.cat(halves, dim=1).float().unsqueeze(0)


class MapHead(nn.Module):
    """The head."""

    def __init__(self, latent_dim: int, condition: int, width: int, blocks: int, heads: int, side: int) -> None:
        super().__init__()
        self._side = side
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2, width), requires_grad=False)
        # In the official files, and read by nobody.
        self.c_pos_embed = nn.Parameter(torch.zeros(1, side**2, width), requires_grad=False)
        self.x_embedder = Projection(latent_dim, width)
        self.t_embedder = TimeEmbedding(width)
        self.c_embedder = Projection(condition, width)
        self.blocks = nn.ModuleList(MapBlock(width, heads) for _ in range(blocks))
        self.final_layer = FinalLayer(width, latent_dim)

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name."""
        positions = sine_positions(self._side, self.pos_embed.shape[-1])
        return {"pos_embed": positions, "c_pos_embed": torch.zeros_like(self.c_pos_embed)}

    def forward(self, map_RKhw: Tensor, features_R1X: Tensor, z_RNZ: Tensor) -> Tensor:
        """Noise (R, K, h, w) fp32 in a map at the steps whose tables are (R, 1, 256), or (1, 1, 256) for all rows."""
        x_RNK = map_RKhw.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        x_RNC = self.x_embedder(x_RNK) + self.pos_embed
        condition_RNC = self.t_embedder(features_R1X) + self.c_embedder(z_RNZ)
        for block in cast(Iterable[MapBlock], self.blocks):
            x_RNC = block(x_RNC, condition_RNC)
        noise_RNK: Tensor = self.final_layer(x_RNC, condition_RNC).float()
        noise_RKhw: Tensor = noise_RNK.transpose(1, 2).unflatten(2, map_RKhw.shape[2:])
        return noise_RKhw


@dataclass(frozen=True, slots=True, kw_only=True)
class MapHeadCost:
    """Work of one evaluation of the head."""

    latent_dim: int
    condition: int
    width: int
    blocks: int
    tokens: int

    def flops(self, rows: int) -> int:
        """FLOPs for all rows at one time."""
        width = self.width
        block = (8 + 4 * MLP_RATIO + 12) * width**2 + 4 * self.tokens * width
        ends = 2 * width * (2 * self.latent_dim + self.condition) + 4 * width**2
        return rows * self.tokens * (self.blocks * block + ends) + 2 * width * (TIME_FEATURES + width)

    @property
    def launches(self) -> int:
        """Kernels that the state waits for: input, five in a block, output."""
        return 2 + 5 * self.blocks

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights."""
        width = self.width
        block = (4 + 2 * MLP_RATIO + 6) * width**2 + (4 + MLP_RATIO + 1 + 6) * width
        times = width * (TIME_FEATURES + width) + 2 * width
        ends = width * (self.latent_dim + self.condition) + 2 * width + self.tokens * width
        last = 2 * width**2 + 2 * width + self.latent_dim * (width + 1)
        return itemsize * (self.blocks * block + times + ends + last)
