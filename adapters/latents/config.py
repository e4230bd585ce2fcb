"""Configurations of the transformers with continuous tokens: of all families, of those with a cache, of masked ones.

Shapes   N tokens of the latent map, C width, D head channels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arvbench.adapters.latents.blocks import PLAIN_BLOCK_LAUNCHES, gated_hidden
from arvbench.adapters.latents.mlp_head import MlpHeadCost


def trunk(width: int, blocks: int, heads: int) -> dict[str, Any]:
    """Return the official arguments of an encoder and a decoder with the same width, number of blocks and heads."""
    sizes = {"embed_dim": width, "depth": blocks, "num_heads": heads}
    return {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig:
    """Constructor arguments of all families under their official names."""

    encoder_embed_dim: int
    encoder_depth: int
    encoder_num_heads: int
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int
    img_size: int = 256
    vae_stride: int = 16
    """Pixels per side of a token."""
    vae_embed_dim: int = 16
    """Latent channels of a token."""
    class_num: int = 1000
    label_drop_prob: float = 0.1

    def __post_init__(self) -> None:
        if self.encoder_embed_dim % self.encoder_num_heads or self.decoder_embed_dim % self.decoder_num_heads:
            raise ValueError("the widths of encoder and decoder must divide into their heads")
        if self.img_size % self.vae_stride:
            raise ValueError(f"the side of the image must divide into tokens of {self.vae_stride} pixels")

    @property
    def grid(self) -> int:
        """Side of the latent map."""
        return self.img_size // self.vae_stride

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid**2

    @property
    def width(self) -> int:
        """C of the encoder."""
        return self.encoder_embed_dim

    @property
    def blocks(self) -> int:
        """Blocks of encoder and decoder."""
        return self.encoder_depth + self.decoder_depth


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedConfig(LatentConfig):
    """Configuration of a family with a cache: `ConditionedBlock`s of one width, whose keys and values are kept."""

    # Dataclasses with slots are made twice, so that the short form of super() finds the wrong one.
    def __post_init__(self) -> None:
        LatentConfig.__post_init__(self)
        if (self.encoder_embed_dim, self.encoder_num_heads) != (self.decoder_embed_dim, self.decoder_num_heads):
            raise ValueError("encoder and decoder must have equal widths and heads: one cache serves both")
        if self.head_dim % 4:
            raise ValueError("the channels of a head must divide into four: two halves of rotated pairs")

    @property
    def head_dim(self) -> int:
        """D."""
        return self.width // self.encoder_num_heads

    def trunk_flops(self, *, tokens: int, context: int, conditions: int) -> int:
        """FLOPs of the blocks and the projection between them on `tokens` of one row that share `conditions`."""
        width = self.width
        block = 8 * width**2 + 6 * width * gated_hidden(width) + 4 * context * width
        return tokens * (self.blocks * block + 2 * width**2) + conditions * self.blocks * 12 * width**2

    @property
    def trunk_launches(self) -> int:
        """Kernels that wait for each other: five in a block, and the projection between the parts."""
        return 5 * self.blocks + 1

    @property
    def trunk_weights(self) -> int:
        """Weights and biases of the blocks, the norms around them and the projection between them."""
        width, hidden = self.width, gated_hidden(self.width)
        block = 10 * width**2 + 11 * width + 3 * width * hidden + 2 * hidden
        return self.blocks * block + width**2 + 4 * width


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedConfig(LatentConfig):
    """Configuration of a family that predicts masked tokens, by a head that denoises single tokens."""

    diffloss_d: int
    """Blocks of that head."""
    diffloss_w: int
    """Width of that head."""
    buffer_size: int = 64
    """Tokens in front of the map that hold the class."""
    mask_ratio_min: float = 0.7
    """Least share of tokens that training masks."""
    diffusion_batch_mul: int = 4
    """Steps of the diffusion at which training denoises each token of the head of single tokens."""

    def __post_init__(self) -> None:
        LatentConfig.__post_init__(self)
        if self.buffer_size < 1:
            raise ValueError("the buffer must have a token: the encoder sees the class there, and no token at first")

    @property
    def token_head(self) -> MlpHeadCost:
        """Work of the head of single tokens."""
        return MlpHeadCost(
            latent_dim=self.vae_embed_dim,
            condition=self.decoder_embed_dim,
            width=self.diffloss_w,
            blocks=self.diffloss_d,
        )

    @property
    def launches(self) -> int:
        """Kernels of the conditions that wait for each other: the blocks, and the projections before and between."""
        return PLAIN_BLOCK_LAUNCHES * self.blocks + 2
