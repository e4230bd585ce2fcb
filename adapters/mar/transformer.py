"""The transformer of MAR: conditions of masked tokens, given all that are known.

The encoder sees the class, repeated in a buffer, and the known tokens. The decoder sees what it gave, and the same mask
token in every other place.

Shapes   R forward rows, b tokens of the buffer, k known tokens, N tokens of the map, K latent channels, C width
Names    modules have the names of the official state dict
Source   MAR (arXiv:2406.11838) section 3; behaviour of LTH14/mar at fe470ac
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.latents.blocks import (
    PLAIN_BLOCK_LAUNCHES,
    LayerNorm,
    PlainBlock,
    plain_block_flops,
    plain_block_weights,
)
from arvbench.adapters.latents.masked import at, put
from arvbench.adapters.latents.mlp_head import MlpHead, MlpHeadCost


@dataclass(frozen=True, slots=True, kw_only=True)
class MarConfig:
    """Constructor arguments of the transformer under their official names."""

    encoder_embed_dim: int
    encoder_depth: int
    encoder_num_heads: int
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int
    diffloss_d: int
    """Blocks of the head."""
    diffloss_w: int
    """Width of the head."""
    img_size: int = 256
    vae_stride: int = 16
    vae_embed_dim: int = 16
    class_num: int = 1000
    buffer_size: int = 64
    """Tokens in front of the map that hold the class."""
    label_drop_prob: float = 0.1
    mask_ratio_min: float = 0.7
    """Least share of tokens that training masks."""
    diffusion_batch_mul: int = 4
    """Steps of the diffusion at which training denoises each token."""

    def __post_init__(self) -> None:
        if self.encoder_embed_dim % self.encoder_num_heads or self.decoder_embed_dim % self.decoder_num_heads:
            raise ValueError("the widths of encoder and decoder must divide into their heads")
        if self.buffer_size < 1:
            raise ValueError("the buffer must have a token: the encoder sees the class there, and no token at first")

    @property
    def grid(self) -> int:
        """Side of the latent map."""
        return self.img_size // self.vae_stride

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid**2

    @property
    def head(self) -> MlpHeadCost:
        return MlpHeadCost(
            latent_dim=self.vae_embed_dim,
            condition=self.decoder_embed_dim,
            width=self.diffloss_w,
            blocks=self.diffloss_d,
        )

    def flops(self, *, rows: int, known: int) -> int:
        """FLOPs of the conditions, of `known` tokens in every row."""
        width, seen = self.encoder_embed_dim, self.buffer_size + known
        encoder = self.encoder_depth * plain_block_flops(width, seen) + known * 2 * width * self.vae_embed_dim
        decoder = self.decoder_depth * plain_block_flops(self.decoder_embed_dim, self.buffer_size + self.tokens)
        return rows * (encoder + seen * 2 * width * self.decoder_embed_dim + decoder)

    @property
    def launches(self) -> int:
        """Kernels of the conditions that wait for each other: the blocks, and the projections before and between."""
        return PLAIN_BLOCK_LAUNCHES * (self.encoder_depth + self.decoder_depth) + 2

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the transformer's weights that a pass reads once."""
        encoder, decoder = self.encoder_embed_dim, self.decoder_embed_dim
        blocks = self.encoder_depth * plain_block_weights(encoder) + self.decoder_depth * plain_block_weights(decoder)
        ends = encoder * (self.vae_embed_dim + 1) + 4 * encoder + (encoder + 1) * decoder + 3 * decoder
        return itemsize * (blocks + ends)


class Mar(nn.Module):
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

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return no buffers: the official file has parameters alone."""
        return {}

    @property
    def head(self) -> MlpHead:
        return cast(MlpHead, self.diffloss["net"])

    def classes(self, labels_R: Tensor) -> Tensor:
        """Embeddings (R, 1, C) of classes; the null class has one of its own."""
        table = torch.cat((self.class_emb.weight, self.fake_latent))
        return F.embedding(labels_R, table).unsqueeze(1)

    def forward(self, map_RNK: Tensor, known_Rk: Tensor, classes_R1C: Tensor) -> Tensor:
        """Conditions (R, N, C) of all tokens, of a map in which those at the places `known_Rk` are known."""
        buffer = self.config.buffer_size
        x_RkC = self.z_proj(at(map_RNK, known_Rk).to(self.z_proj.weight.dtype))
        x_RlC = torch.cat((classes_R1C.expand(-1, buffer, -1), x_RkC), dim=1)
        places_Rl = self._with_buffer(known_Rk)
        positions_RPC = self.encoder_pos_embed_learned.expand(len(map_RNK), -1, -1)
        x_RlC = _run(self.encoder_blocks, self.z_proj_ln(x_RlC + at(positions_RPC, places_Rl)))
        x_RlC = self.decoder_embed(self.encoder_norm(x_RlC))
        masked_RPC = self.mask_token.expand(len(map_RNK), buffer + self.config.tokens, -1)
        x_RPC = put(masked_RPC, places_Rl, x_RlC) + self.decoder_pos_embed_learned
        x_RPC = self.decoder_norm(_run(self.decoder_blocks, x_RPC))
        z_RNC: Tensor = x_RPC[:, buffer:] + self.diffusion_pos_embed_learned
        return z_RNC

    def _with_buffer(self, known_Rk: Tensor) -> Tensor:
        """Places of the buffer and of known tokens among all."""
        buffer = torch.arange(self.config.buffer_size, device=known_Rk.device).expand(len(known_Rk), -1)
        return torch.cat((buffer, known_Rk + self.config.buffer_size), dim=1)


def _run(blocks: nn.ModuleList, x_RlC: Tensor) -> Tensor:
    for block in cast(Iterable[PlainBlock], blocks):
        x_RlC = block(x_RlC)
    return x_RlC
