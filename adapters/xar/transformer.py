"""The transformer of xAR: velocities of noisy cells, given clean ones.

Tokens come in the order of cells, raster inside a cell. Every cell has one condition, the sum of class and time; a
clean cell has time 0. Encoder and decoder blocks follow each other on the same tokens.

Shapes   R forward rows, n cells of a pass, l tokens of a pass, N tokens of the map, K latent channels, C width
Names    modules have the names of the official state dict
Source   xAR (arXiv:2502.20388) section 3; behaviour of OliverRensu/xAR at 121e9c9
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
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
    block_causal,
    gated_hidden,
    rope_frequencies,
    rope_tables,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class XarConfig:
    """Constructor arguments of the transformer under their official names."""

    encoder_embed_dim: int
    encoder_depth: int
    encoder_num_heads: int
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int
    img_size: int = 256
    vae_stride: int = 16
    vae_embed_dim: int = 16
    class_num: int = 1000
    clusters: int = 4
    """Cells of the map, a square number."""
    label_drop_prob: float = 0.1

    def __post_init__(self) -> None:
        if (self.encoder_embed_dim, self.encoder_num_heads) != (self.decoder_embed_dim, self.decoder_num_heads):
            raise ValueError("encoder and decoder must have equal widths and heads: one cache serves both")
        if self.grid % self.across or self.across**2 != self.clusters or self.head_dim % 4:
            raise ValueError("the map must divide into square cells, and the channels of a head into four")

    @property
    def grid(self) -> int:
        """Side of the latent map."""
        return self.img_size // self.vae_stride

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
    def width(self) -> int:
        return self.encoder_embed_dim

    @property
    def blocks(self) -> int:
        return self.encoder_depth + self.decoder_depth

    @property
    def head_dim(self) -> int:
        return self.width // self.encoder_num_heads

    def flops(self, *, rows: int, cells: int, context: int) -> int:
        """FLOPs of a pass over `cells` cells per row, attending to `context` tokens."""
        width, tokens = self.width, cells * self.cell_tokens
        linear = self.blocks * (8 * width**2 + 6 * width * gated_hidden(width)) + 2 * width**2
        per_token = linear + 4 * width * self.vae_embed_dim + self.blocks * 4 * context * width
        times = cells * 2 * width * (TIME_FEATURES + width)
        return rows * (tokens * per_token + cells * self.blocks * 12 * width**2) + times

    @property
    def launches(self) -> int:
        """Kernels of a pass that wait for each other: five in a block, the three projections around the blocks."""
        return 5 * self.blocks + 3

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights that every pass reads once."""
        width, hidden = self.width, gated_hidden(self.width)
        block = 10 * width**2 + 10 * width + 3 * width * hidden + 2 * hidden + width
        ends = 2 * width * self.vae_embed_dim + self.vae_embed_dim + width + width**2 + width + 3 * width
        times = width * (TIME_FEATURES + width) + 2 * width
        return itemsize * (self.blocks * block + ends + times)


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
        return Turn(self.freqs_cos[start:end], self.freqs_sin[start:end])


def rope_buffers(config: XarConfig) -> dict[str, Tensor]:
    """Frequencies and tables (N, D) fp32 in the order of cells."""
    frequencies, order_N = rope_frequencies(config.head_dim), cell_order(config)
    cos_ND, sin_ND = rope_tables(frequencies, (order_N // config.grid).float(), (order_N % config.grid).float())
    return {"freqs": frequencies, "freqs_cos": cos_ND, "freqs_sin": sin_ND}


def training_mask(config: XarConfig) -> Tensor:
    """(1, 1, N, N) fp32: 0 where a token may attend, -inf elsewhere; a buffer of the official files."""
    allowed_NN = block_causal([config.cell_tokens] * config.clusters)
    return torch.zeros(allowed_NN.shape).masked_fill(~allowed_NN, -torch.inf)[None, None]


class XarBlock(ConditionedBlock):
    """A block with rotary tables of its own."""

    def __init__(self, config: XarConfig) -> None:
        super().__init__(config.width, config.encoder_num_heads)
        self.attn.add_module("rope", Rope(config))

    def turn(self, start: int, end: int) -> Turn:
        """Rotation of the tokens start..end-1 in the order of cells."""
        return cast(Rope, self.attn.rope).turn(start, end)


class Xar(nn.Module):
    """The transformer; state-dict names equal the official files'."""

    def __init__(self, config: XarConfig) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, config.grid**2
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, width))
        self.class_emb = nn.Embedding(config.class_num + 1, width)
        self.time_embed = TimeEmbedding(width)
        self.z_proj = nn.Linear(config.vae_embed_dim, width)
        self.z_proj_ln = RmsNorm(width)
        self.encoder_blocks = nn.ModuleList(XarBlock(config) for _ in range(config.encoder_depth))
        self.encoder_norm = RmsNorm(width)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_blocks = nn.ModuleList(XarBlock(config) for _ in range(config.decoder_depth))
        self.decoder_norm = RmsNorm(width)
        self.pred = nn.Linear(width, config.vae_embed_dim)
        register_constants(self, lambda: {"mask": training_mask(config)})

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that follow from the configuration: rotary tables and the mask."""
        blocks = [f"{part}_blocks.{i}" for part in ("encoder", "decoder") for i in range(len(self.blocks(part)))]
        tables = rope_buffers(self.config)
        turned = {f"{block}.attn.rope.{name}": values for block in blocks for name, values in tables.items()}
        return {"mask": training_mask(self.config), **turned}

    def blocks(self, part: str) -> nn.ModuleList:
        return cast(nn.ModuleList, self.get_submodule(f"{part}_blocks"))

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
        end = start + x_RlK.shape[1]
        attending = partial(Attending, cache=cache, kept=kept, mask_lT=mask_lT)
        x_RlC = self.z_proj(x_RlK.to(self.z_proj.weight.dtype)) + self.encoder_pos_embed_learned[:, start:end]
        x_RlC = self._run(self.encoder_blocks, self.z_proj_ln(x_RlC), condition_RnC, attending, (start, end, 0))
        x_RlC = self.decoder_embed(self.encoder_norm(x_RlC)) + self.decoder_pos_embed_learned[:, start:end]
        place = start, end, len(self.encoder_blocks)
        x_RlC = self._run(self.decoder_blocks, x_RlC, condition_RnC, attending, place)
        v_RlK: Tensor = self.pred(self.decoder_norm(x_RlC)).float()
        return v_RlK

    def _run(
        self,
        blocks: nn.ModuleList,
        x_RlC: Tensor,
        condition_RnC: Tensor,
        attending: Callable[[Turn], Attending],
        place: tuple[int, int, int],
    ) -> Tensor:
        start, end, first_layer = place
        for number, block in enumerate(cast(Iterable[XarBlock], blocks)):
            x_RlC = block(x_RlC, condition_RnC, attending(block.turn(start, end)), first_layer + number)
        return x_RlC

    def condition(self, labels_R: Tensor, features_n256: Tensor) -> Tensor:
        """Conditions (R, n, C) of cells whose times have the tables (n, 256), or (R, n, 256) where rows differ."""
        classes_R1C = self.class_emb(labels_R).unsqueeze(1)
        condition_RnC: Tensor = classes_R1C + self.time_embed(features_n256)
        return condition_RnC
