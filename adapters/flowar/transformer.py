"""The transformer of FlowAR: conditions of the tokens of every scale, given the latents of the scales before it.

The first scale reads the class, every other one the latents of the scale before it, resized. Encoder and decoder blocks
follow each other on the same tokens, modulated by the class alone. Positions turn by their place on the finest map,
whatever the scale.

Shapes   R forward rows, l tokens of a scale, L of all scales, K latent channels, C width
Names    modules have the names of the official state dict
Source   FlowAR (arXiv:2412.15205) section 3; behaviour of wangqiang9/FlowAR at 5745a96
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache.policy import KVCache
from arvbench.adapters.common.meta import register_constants
from arvbench.adapters.flowar.head import HEAD_DIM, FlowHead, FlowHeadCost, Rope
from arvbench.adapters.latents.blocks import (
    Attending,
    ConditionedBlock,
    RmsNorm,
    Turn,
    rope_frequencies,
    rope_tables,
)
from arvbench.adapters.latents.conditioned import ConditionedTrunk, causal_mask
from arvbench.adapters.latents.config import CachedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowArConfig(CachedConfig):
    """Constructor arguments of the transformer under their official names."""

    diffloss_d: int
    """Blocks of the head."""
    diffloss_w: int
    """Width of the head."""
    cross: bool
    """True for the head with cross-attention."""
    scale: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Side of the latent map of every scale."""

    def __post_init__(self) -> None:
        CachedConfig.__post_init__(self)
        if len(self.scale) < 2 or self.scale[0] != 1 or self.scale[-1] != self.grid:
            raise ValueError(f"scales must begin with 1 and end with {self.grid}, the side of the latent map")
        if self.diffloss_w % HEAD_DIM:
            raise ValueError(f"the width of the flow head must divide into heads of {HEAD_DIM} channels")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of every scale."""
        return tuple(side**2 for side in self.scale)

    @property
    def head(self) -> FlowHeadCost:
        """Work of the head."""
        return FlowHeadCost(
            latent_dim=self.vae_embed_dim,
            condition=self.width,
            width=self.diffloss_w,
            blocks=self.diffloss_d,
            cross=self.cross,
        )

    def flops(self, *, rows: int, new: int, context: int, first: bool) -> int:
        """FLOPs of the conditions of `new` tokens per row, attending to `context` tokens."""
        embedded = 0 if first else new * 2 * self.width * self.vae_embed_dim
        return rows * (self.trunk_flops(tokens=new, context=context, conditions=1) + embedded)

    def weight_bytes(self, itemsize: int, *, first: bool) -> int:
        """Bytes of the transformer's weights that a step reads once."""
        return itemsize * (self.trunk_weights + (0 if first else self.width * (self.vae_embed_dim + 1)))


def turn_of(frequencies_P: Tensor, sides: Iterable[int], grid: int) -> Turn:
    """Rotation of the tokens of maps of `sides`, one after another, stretched to a map of `grid`."""
    tables = []
    for side in sides:
        at_l = torch.arange(side, device=frequencies_P.device).float() / side * grid
        tables.append(rope_tables(frequencies_P, at_l.repeat_interleave(side), at_l.repeat(side)))
    cos, sin = zip(*tables, strict=True)
    return Turn.of_tables(torch.cat(cos), torch.cat(sin))


def _block(config: FlowArConfig) -> ConditionedBlock:
    block = ConditionedBlock(config.width, config.encoder_num_heads)
    block.attn.add_module("rope", Rope(config.head_dim))
    return block


class FlowAr(ConditionedTrunk):
    """Transformer and head; state-dict names equal the official files'."""

    def __init__(self, config: FlowArConfig) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, sum(config.sizes)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.class_emb = nn.Embedding(config.class_num + 1, width)
        self.z_proj = nn.Linear(config.vae_embed_dim, width)
        self.z_proj_ln = RmsNorm(width)
        self.encoder_blocks = nn.ModuleList(_block(config) for _ in range(config.encoder_depth))
        self.encoder_norm = RmsNorm(width)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_blocks = nn.ModuleList(_block(config) for _ in range(config.decoder_depth))
        self.decoder_norm = RmsNorm(width)
        self.flownet = FlowHead(config.vae_embed_dim, width, config.diffloss_w, config.diffloss_d, cross=config.cross)
        register_constants(self, lambda: {"mask": causal_mask(config.sizes)})

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that follow from the configuration: rotary frequencies and the mask."""
        names = [name for name, _ in self.named_buffers() if name != "mask"]
        own, head = rope_frequencies(self.config.head_dim), rope_frequencies(HEAD_DIM)
        turned = {name: (head if name.startswith("flownet") else own).clone() for name in names}
        return {"mask": causal_mask(self.config.sizes), **turned}

    def turns(self, sides: Iterable[int]) -> tuple[Turn, Turn]:
        """Rotations of the transformer and of the head for tokens of maps of `sides`."""
        own = self.first_attention.get_buffer("rope.freqs")
        head = self.flownet.res_blocks[0].get_buffer("attn.rope.freqs")
        chosen = tuple(sides)
        return turn_of(own, chosen, self.config.grid), turn_of(head, chosen, self.config.grid)

    def conditions(
        self,
        x_RlC: Tensor,
        classes_R1C: Tensor,
        start: int,
        turn: Turn,
        *,
        cache: KVCache | None = None,
        mask_lT: Tensor | None = None,
    ) -> Tensor:
        """Conditions (R, l, C) of the tokens from number `start` on, of embedded inputs."""
        tokens = x_RlC.shape[1]
        out_RlC = self.trunk(x_RlC, classes_R1C, start, Attending(turn, cache, tokens, mask_lT))
        return out_RlC + self.diffusion_pos_embed_learned[:, start : start + tokens]

    def embed(self, latents_RlK: Tensor) -> Tensor:
        """Embed resized latents of the scale before, (R, l, C)."""
        x_RlC: Tensor = self.z_proj(latents_RlK.to(self.z_proj.weight.dtype))
        return x_RlC


def resized(latents_BlK: Tensor, side: int, after: int, grid: int) -> Tensor:
    """Latents (B, l, K) of a scale as input of the next one: to the finest map (bicubic), then down (area)."""
    map_BKhw = latents_BlK.float().transpose(1, 2).unflatten(2, (side, side))
    fine_BKhw = F.interpolate(map_BKhw, size=(grid, grid), mode="bicubic")
    down_BKhw = F.interpolate(fine_BKhw, size=(after, after), mode="area")
    return down_BKhw.flatten(2).transpose(1, 2)
