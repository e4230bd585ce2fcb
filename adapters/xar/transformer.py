"""The transformer of xAR: velocities of noisy cells, given clean ones.

Tokens come in the order of cells, raster inside a cell. Every cell has one condition, the sum of class and time; a
clean cell has time 0. Encoder and decoder blocks follow each other on the same tokens.

Shapes   R forward rows, n cells of a pass, l tokens of a pass, N tokens of the map, K latent channels, C width
Names    modules have the names of the official state dict
Source   xAR (arXiv:2502.20388) section 3; behaviour of OliverRensu/xAR at 121e9c9
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from arvbench.adapters.cache.policy import KVCache
from arvbench.adapters.common.meta import register_constants
from arvbench.adapters.latents.blocks import (
    TIME_FEATURES,
    Attending,
    ConditionedBlock,
    RmsNorm,
    TimeEmbedding,
    Turn,
    rope_frequencies,
    rope_tables,
)
from arvbench.adapters.latents.conditioned import ConditionedTrunk, causal_mask
from arvbench.adapters.latents.config import CachedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class XarConfig(CachedConfig):
    """Constructor arguments of the transformer under their official names."""

    clusters: int = 4
    """Cells of the map, a square number."""

    def __post_init__(self) -> None:
        CachedConfig.__post_init__(self)
        if self.grid % self.across or self.across**2 != self.clusters:
            raise ValueError("the map must divide into square cells")

    @property
    def across(self) -> int:
        """Cells beside each other."""
        return math.isqrt(self.clusters)

    @property
    def cell_side(self) -> int:
        return self.grid // self.across

    @property
    def cell_tokens(self) -> int:
        return self.cell_side**2

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of every cell."""
        return (self.cell_tokens,) * self.clusters

    def flops(self, *, rows: int, cells: int, context: int) -> int:
        """FLOPs of a pass over `cells` cells per row, attending to `context` tokens."""
        width, tokens = self.width, cells * self.cell_tokens
        blocks = self.trunk_flops(tokens=tokens, context=context, conditions=cells)
        return rows * (blocks + tokens * 4 * width * self.vae_embed_dim) + cells * 2 * width * (TIME_FEATURES + width)

    @property
    def launches(self) -> int:
        """Kernels of a pass that wait for each other: the blocks, the projections before and after."""
        return self.trunk_launches + 2

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights that every pass reads once."""
        width = self.width
        ends = 2 * width * self.vae_embed_dim + width + self.vae_embed_dim
        times = width * (TIME_FEATURES + width) + 2 * width
        return itemsize * (self.trunk_weights + ends + times)


def cell_order(config: XarConfig) -> Tensor:
    """(N,) int64: raster position of every token in the order of cells."""
    places = torch.arange(config.grid**2).view(config.across, config.cell_side, config.across, config.cell_side)
    return places.transpose(1, 2).flatten()


class Rope(nn.Module):
    """Rotary tables of one block, buffers in the official files."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, config: XarConfig) -> None:
        super().__init__()
        register_constants(self, lambda: rope_buffers(config))

    def turn(self, start: int, end: int) -> Turn:
        """Rotation of the tokens start..end-1 in the order of cells."""
        return Turn.of_tables(self.freqs_cos[start:end], self.freqs_sin[start:end])


def rope_buffers(config: XarConfig) -> dict[str, Tensor]:
    """Frequencies and tables (N, D) fp32 in the order of cells."""
    frequencies, order_N = rope_frequencies(config.head_dim), cell_order(config)
    cos_ND, sin_ND = rope_tables(frequencies, (order_N // config.grid).float(), (order_N % config.grid).float())
    return {"freqs": frequencies, "freqs_cos": cos_ND, "freqs_sin": sin_ND}


def _block(config: XarConfig) -> ConditionedBlock:
    block = ConditionedBlock(config.width, config.encoder_num_heads)
    block.attn.add_module("rope", Rope(config))
    return block


class Xar(ConditionedTrunk):
    """The transformer; state-dict names equal the official files'."""

    def __init__(self, config: XarConfig) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, config.tokens
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.class_emb = nn.Embedding(config.class_num + 1, width)
        self.time_embed = TimeEmbedding(width)
        self.z_proj = nn.Linear(config.vae_embed_dim, width)
        self.z_proj_ln = RmsNorm(width)
        self.encoder_blocks = nn.ModuleList(_block(config) for _ in range(config.encoder_depth))
        self.encoder_norm = RmsNorm(width)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_blocks = nn.ModuleList(_block(config) for _ in range(config.decoder_depth))
        self.decoder_norm = RmsNorm(width)
        self.pred = nn.Linear(width, config.vae_embed_dim)
        register_constants(self, lambda: {"mask": causal_mask(config.sizes)})

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that follow from the configuration: rotary tables and the mask."""
        ropes = [name for name, module in self.named_modules() if isinstance(module, Rope)]
        tables = rope_buffers(self.config)
        turned = {f"{rope}.{name}": values for rope in ropes for name, values in tables.items()}
        return {"mask": causal_mask(self.config.sizes), **turned}

    def forward(
        self,
        x_RlK: Tensor,
        condition_RnC: Tensor,
        first: int,
        *,
        cache: KVCache | None = None,
        kept: int = 0,
        mask_lT: Tensor | None = None,
    ) -> Tensor:
        """Velocities (R, l, K) fp32 of cells `first` and after, whose first `kept` tokens stay in the cache."""
        start = first * self.config.cell_tokens
        turn = cast(Rope, self.first_attention.rope).turn(start, start + x_RlK.shape[1])
        x_RlC = self.z_proj(x_RlK.to(self.z_proj.weight.dtype))
        out_RlC = self.trunk(x_RlC, condition_RnC, start, Attending(turn, cache, kept, mask_lT))
        v_RlK: Tensor = self.pred(out_RlC).float()
        return v_RlK

    def condition(self, labels_R: Tensor, features_n256: Tensor) -> Tensor:
        """Conditions (R, n, C) of cells whose times have the tables (n, 256), or (R, n, 256) where rows differ."""
        classes_R1C = self.class_emb(labels_R).unsqueeze(1)
        condition_RnC: Tensor = classes_R1C + self.time_embed(features_n256)
        return condition_RnC
