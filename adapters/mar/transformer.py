"""The transformer of MAR: conditions of masked tokens, given all that are known.

One mask token stands in all places that are not known.

Shapes   R forward rows, k known tokens, N tokens of the map, K latent channels, C width
Names    modules have the names of the official state dict
Source   MAR (arXiv:2406.11838) section 3; behaviour of LTH14/mar at fe470ac
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from arvbench.adapters.latents.blocks import (
    LayerNorm,
    PlainBlock,
    plain_block_flops,
    plain_block_weights,
)
from arvbench.adapters.latents.config import MaskedConfig
from arvbench.adapters.latents.masked import at
from arvbench.adapters.latents.masked_transformer import MaskedTransformer
from arvbench.adapters.latents.mlp_head import MlpHead


@dataclass(frozen=True, slots=True, kw_only=True)
class MarConfig(MaskedConfig):
    """Constructor arguments of the transformer under their official names."""

    def flops(self, *, rows: int, known: int) -> int:
        """FLOPs of the conditions, of `known` tokens in every row."""
        width, seen = self.encoder_embed_dim, self.buffer_size + known
        encoder = self.encoder_depth * plain_block_flops(width, seen) + known * 2 * width * self.vae_embed_dim
        decoder = self.decoder_depth * plain_block_flops(self.decoder_embed_dim, self.buffer_size + self.tokens)
        return rows * (encoder + seen * 2 * width * self.decoder_embed_dim + decoder)

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the transformer's weights that a pass reads once."""
        encoder, decoder = self.encoder_embed_dim, self.decoder_embed_dim
        blocks = self.encoder_depth * plain_block_weights(encoder) + self.decoder_depth * plain_block_weights(decoder)
        ends = encoder * (self.vae_embed_dim + 1) + 4 * encoder + (encoder + 1) * decoder + 3 * decoder
        return itemsize * (blocks + ends)


class Mar(MaskedTransformer):
    """Transformer and head; state-dict names equal the official files'."""

    def __init__(self, config: MarConfig) -> None:
        super().__init__()
        self.config = config
        width, decoder, places = config.encoder_embed_dim, config.decoder_embed_dim, config.buffer_size + config.tokens
        self.fake_latent = nn.Parameter(torch.zeros(1, width))
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, places, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, places, decoder))
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, config.tokens, decoder))
        self.class_emb = nn.Embedding(config.class_num, width)
        self.z_proj = nn.Linear(config.vae_embed_dim, width)
        self.z_proj_ln = LayerNorm(width)
        heads = config.encoder_num_heads, config.decoder_num_heads
        self.encoder_blocks = nn.ModuleList(PlainBlock(width, heads[0]) for _ in range(config.encoder_depth))
        self.encoder_norm = LayerNorm(width)
        self.decoder_embed = nn.Linear(width, decoder)
        self.decoder_blocks = nn.ModuleList(PlainBlock(decoder, heads[1]) for _ in range(config.decoder_depth))
        self.decoder_norm = LayerNorm(decoder)
        head = MlpHead(config.vae_embed_dim, decoder, config.diffloss_w, config.diffloss_d)
        self.diffloss = nn.ModuleDict({"net": head})

    def forward(self, map_RNK: Tensor, known_Rk: Tensor, classes_R1C: Tensor) -> Tensor:
        """Conditions (R, N, C) of all tokens, of a map in which those at the places `known_Rk` are known."""
        x_RkC = self.z_proj(at(map_RNK, known_Rk).to(self.z_proj.weight.dtype))
        return self.conditions(x_RkC, known_Rk, classes_R1C)

    def run(self, part: str, x_RlC: Tensor, phase: int) -> Tensor:
        for block in cast(Iterable[PlainBlock], self.get_submodule(f"{part}_blocks")):
            x_RlC = block(x_RlC)
        return x_RlC
