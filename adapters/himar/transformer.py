"""The transformer of Hi-MAR: conditions of masked tokens of a coarse map, then of the fine one.

Both phases feed one sequence, the buffer with the class, the pivots (tokens of the coarse map) and the tokens of the
fine map, through the same blocks; positions and mask tokens are those of the phase. In phase 1 pivots enter as latents,
and all fine tokens are masked. In phase 2 they enter as the conditions under which they were drawn.

Shapes   R forward rows, b tokens of the buffer, P pivots, N fine tokens, k known tokens, K latent channels, C width
Names    modules have the names of the official state dict
Source   Hi-MAR (arXiv:2505.20288); behaviour of HiDream-ai/himar at 1d378c1
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from arvbench.adapters.himar.map_head import MapHead, MapHeadCost
from arvbench.adapters.latents.blocks import (
    Attending,
    LayerNorm,
    Mlp,
    SelfAttention,
    plain_block_flops,
    plain_block_weights,
)
from arvbench.adapters.latents.config import MaskedConfig
from arvbench.adapters.latents.masked import at
from arvbench.adapters.latents.masked_transformer import MaskedTransformer
from arvbench.adapters.latents.mlp_head import MlpHead

PHASES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HiMarConfig(MaskedConfig):
    """Constructor arguments of the transformer under their official names; `diffloss_*` is the head of phase 1."""

    gdm_d: int
    """Blocks of the head of phase 2."""
    gdm_w: int
    """Width of the head of phase 2."""
    head: int
    """Attention heads of the head of phase 2."""
    cond_scale: int = 8
    """Side of the coarse map."""
    cond_dim: int = 16
    """Latent channels of the pivots."""

    def __post_init__(self) -> None:
        MaskedConfig.__post_init__(self)
        if (self.encoder_embed_dim, self.cond_dim) != (self.decoder_embed_dim, self.vae_embed_dim):
            raise ValueError("encoder and decoder must have equal widths, and pivots the latent channels of the map")
        if self.gdm_w % self.head or self.gdm_w % 4:
            raise ValueError("the width of the map's head must divide into its heads and into four")

    @property
    def pivots(self) -> int:
        """P."""
        return self.cond_scale**2

    @property
    def sequence(self) -> int:
        """Tokens of the decoder."""
        return self.buffer_size + self.pivots + self.tokens

    @property
    def map_head(self) -> MapHeadCost:
        """Head of phase 2."""
        return MapHeadCost(
            latent_dim=self.vae_embed_dim,
            condition=self.width,
            width=self.gdm_w,
            blocks=self.gdm_d,
            tokens=self.tokens,
        )

    def flops(self, *, rows: int, pivots: int, tokens: int, phase: int) -> int:
        """Return the FLOPs of one pass that computes conditions; `pivots` and `tokens` are the known ones of a row."""
        width, seen = self.width, self.buffer_size + pivots + tokens
        entering = pivots * 2 * width * (width if phase else self.cond_dim) + tokens * 2 * width * self.vae_embed_dim
        blocks = self.encoder_depth * plain_block_flops(width, seen)
        blocks += self.decoder_depth * plain_block_flops(width, self.sequence)
        modulation = 2 * 8 * width**2
        return rows * (entering + blocks + seen * 2 * width**2) + modulation

    def weight_bytes(self, itemsize: int, *, phase: int) -> int:
        """Bytes of the transformer's weights that a pass reads once."""
        width = self.width
        block = plain_block_weights(width) + 2 * 4 * width
        entering = width * ((width if phase else self.cond_dim) + 1)
        if phase:
            entering += width * (self.vae_embed_dim + 1)
        modulation = 2 * (4 * width * (width + 1) + width)
        ends = (width + 1) * width + 7 * width
        return itemsize * (self.blocks * block + entering + modulation + ends)


class Block(nn.Module):
    """Attention and MLP, each scaled and gated for the phase."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.adaLN_scale = nn.Parameter(torch.ones(PHASES, 1, 1, 4 * width))
        self.adaLN_shift = nn.Parameter(torch.zeros(PHASES, 1, 1, 4 * width))
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attn = SelfAttention(width, heads, qkv_bias=True)
        self.mlp = Mlp(width)

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name: gates of one."""
        shift = torch.zeros_like(self.adaLN_shift).unflatten(-1, (4, -1))
        shift[..., 1::2, :] = 1
        return {"adaLN_scale": torch.ones_like(self.adaLN_scale), "adaLN_shift": shift.flatten(-2)}

    def forward(self, x_RlC: Tensor, task_14C: Tensor, phase: int) -> Tensor:
        modulation = task_14C * self.adaLN_scale[phase] + self.adaLN_shift[phase]
        scale1, gate1, scale2, gate2 = modulation.chunk(4, dim=-1)
        x_RlC = x_RlC + gate1 * self.attn(self.norm1(x_RlC) * (1 + scale1), Attending())
        out_RlC: Tensor = x_RlC + gate2 * self.mlp(self.norm2(x_RlC) * (1 + scale2))
        return out_RlC


class HiMar(MaskedTransformer):
    """Transformer and heads; state-dict names equal the official files'."""

    phases = PHASES
    config: HiMarConfig

    def __init__(self, config: HiMarConfig) -> None:
        super().__init__()
        self.config = config
        width, drawn = config.width, config.pivots + config.tokens
        self.fake_latent = nn.Parameter(torch.zeros(1, width))
        # In the official files, and read by nobody.
        self.cond_tokens = nn.Parameter(torch.zeros(1, config.pivots, config.cond_dim), requires_grad=False)
        self.mask_token = nn.Parameter(torch.zeros(1, PHASES * drawn, width))
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, PHASES * config.sequence, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, PHASES * config.sequence, width))
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, drawn, width))
        self.class_emb = nn.Embedding(config.class_num, width)
        self.z_proj = nn.Linear(config.vae_embed_dim, width)
        self.z_proj_ln = LayerNorm(width)
        self.cond_z_proj = nn.Linear(width, width)
        self.cond_proj = nn.Linear(config.cond_dim, width)
        self.encoder_blocks = _blocks(config.encoder_depth, width, config.encoder_num_heads)
        self.encoder_task_emb = nn.Embedding(PHASES, width)
        self.encoder_blocks_ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 4 * width))
        self.encoder_norm = LayerNorm(width)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_blocks = _blocks(config.decoder_depth, width, config.decoder_num_heads)
        self.decoder_task_emb = nn.Embedding(PHASES, width)
        self.decoder_blocks_ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 4 * width))
        self.decoder_norm = LayerNorm(width)
        token_head = MlpHead(config.cond_dim, width, config.diffloss_w, config.diffloss_d)
        map_head = MapHead(config.vae_embed_dim, width, config.gdm_w, config.gdm_d, config.head, config.grid)
        self.diffloss = nn.ModuleDict({"net": token_head})
        self.cond_diffloss = nn.ModuleDict({"net": map_head})

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name."""
        return {"cond_tokens": torch.zeros_like(self.cond_tokens)}

    @property
    def map_head(self) -> MapHead:
        return cast(MapHead, self.cond_diffloss["net"])

    def embed_pivots(self, pivots_RPK: Tensor, known_Rk: Tensor) -> Tensor:
        """Embed the pivots at the places `known_Rk` (R, k, C), as phase 1 reads them."""
        x_RkC: Tensor = self.cond_proj(at(pivots_RPK, known_Rk).to(self.cond_proj.weight.dtype))
        return x_RkC

    def embed_map(self, pivot_z_RPC: Tensor, map_RNK: Tensor, known_Rk: Tensor) -> tuple[Tensor, Tensor]:
        """Embed what led to the pivots, and known fine tokens: (R, P + k, C) with their places among all."""
        pivots = self.config.pivots
        x_RkC = self.z_proj(at(map_RNK, known_Rk).to(self.z_proj.weight.dtype))
        places = torch.arange(pivots, device=known_Rk.device).expand(len(known_Rk), -1)
        return torch.cat((self.cond_z_proj(pivot_z_RPC), x_RkC), dim=1), torch.cat((places, known_Rk + pivots), dim=1)

    def pivot_conditions(self, pivots_RPK: Tensor, known_Rk: Tensor, classes_R1C: Tensor) -> Tensor:
        """Conditions (R, P, C) of the pivots, given those at the places `known_Rk`."""
        x_RkC = self.embed_pivots(pivots_RPK, known_Rk)
        return self.conditions(x_RkC, known_Rk, classes_R1C, 0)[:, : self.config.pivots]

    def map_conditions(self, pivot_z_RPC: Tensor, map_RNK: Tensor, known_Rk: Tensor, classes_R1C: Tensor) -> Tensor:
        """Conditions (R, N, C) of the fine tokens, given those at the places `known_Rk` and what led to the pivots."""
        x_RlC, places_Rl = self.embed_map(pivot_z_RPC, map_RNK, known_Rk)
        return self.conditions(x_RlC, places_Rl, classes_R1C, 1)[:, self.config.pivots :]

    def run(self, part: str, x_RlC: Tensor, phase: int) -> Tensor:
        number_1 = torch.full((1,), phase, device=x_RlC.device)
        task_14C = self.get_submodule(f"{part}_blocks_ada")(self.get_submodule(f"{part}_task_emb")(number_1))
        for block in cast(Iterable[Block], self.get_submodule(f"{part}_blocks")):
            x_RlC = block(x_RlC, task_14C, phase)
        return x_RlC


def _blocks(count: int, width: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, heads) for _ in range(count))
