"""The transformer of FlowAR: conditions of the tokens of every scale, given the latents of the scales before it.

The first scale reads the class, every other one the latents of the scale before it, resized. Encoder and decoder blocks
follow each other on the same tokens, modulated by the class alone. Positions turn by their place on the finest map,
whatever the scale.

Shapes   R forward rows, l tokens of a scale, L of all scales, K latent channels, C width
Names    modules have the names of the official state dict
Source   FlowAR (arXiv:2412.15205) section 3; behaviour of wangqiang9/FlowAR at 5745a96
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache.policy import KVCache
from arvbench.adapters.common.meta import register_constants
from arvbench.adapters.flowar.head import HEAD_DIM, FlowHead, Rope
from arvbench.adapters.latents.blocks import (
    TIME_FEATURES,
    Attending,
    ConditionedBlock,
    RmsNorm,
    Turn,
    block_causal,
    gated_hidden,
    rope_frequencies,
    rope_tables,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowArConfig:
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
    cross: bool
    """True for the head with cross-attention."""
    scale: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Side of the latent map of every scale."""
    img_size: int = 256
    vae_stride: int = 16
    vae_embed_dim: int = 16
    class_num: int = 1000
    label_drop_prob: float = 0.1

    def __post_init__(self) -> None:
        if (self.encoder_embed_dim, self.encoder_num_heads) != (self.decoder_embed_dim, self.decoder_num_heads):
            raise ValueError("encoder and decoder must have equal widths and heads: one cache serves both")
        if self.scale[0] != 1 or self.scale[-1] != self.grid or len(self.scale) < 2:
            raise ValueError(f"scales must begin with 1 and end with {self.grid}, the side of the latent map")
        if self.head_dim % 4 or self.diffloss_w % HEAD_DIM:
            raise ValueError("the channels of a head must divide into four, and the width of the flow head into heads")

    @property
    def grid(self) -> int:
        """Side of the finest map."""
        return self.img_size // self.vae_stride

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of every scale."""
        return tuple(side**2 for side in self.scale)

    @property
    def width(self) -> int:
        return self.encoder_embed_dim

    @property
    def blocks(self) -> int:
        return self.encoder_depth + self.decoder_depth

    @property
    def head_dim(self) -> int:
        return self.width // self.encoder_num_heads

    def flops(self, *, rows: int, new: int, context: int, first: bool) -> int:
        """FLOPs of the conditions of `new` tokens per row, attending to `context` tokens."""
        width = self.width
        linear = self.blocks * (8 * width**2 + 6 * width * gated_hidden(width)) + 2 * width**2
        per_token = linear + self.blocks * 4 * context * width + (0 if first else 2 * width * self.vae_embed_dim)
        return rows * (new * per_token + self.blocks * 12 * width**2)

    def head_flops(self, *, rows: int, tokens: int) -> int:
        """FLOPs of one evaluation of the head on a scale."""
        width = self.diffloss_w
        block = 8 * width**2 + 6 * width * gated_hidden(width) + 4 * tokens * width
        # Modulations per token, all six of S and the MLP's three of the others.
        cross = 10 * width**2 + 4 * width * self.width + 4 * tokens * width
        block += cross if self.cross else 12 * width**2
        per_token = self.diffloss_d * block + 2 * width * (2 * self.vae_embed_dim + self.width) + 4 * width**2
        by_time = 2 * width * (TIME_FEATURES + width) + (self.diffloss_d * 6 * width**2 if self.cross else 0)
        return rows * tokens * per_token + by_time

    @property
    def launches(self) -> int:
        """Kernels of the conditions that wait for each other: five in a block, and the projection between the parts."""
        return 5 * self.blocks + 1

    @property
    def head_launches(self) -> int:
        """Kernels of an evaluation of the head that wait for each other."""
        return (8 if self.cross else 5) * self.diffloss_d

    def weight_bytes(self, itemsize: int, *, first: bool) -> int:
        """Bytes of the transformer's weights that a step reads once."""
        width, hidden = self.width, gated_hidden(self.width)
        block = 10 * width**2 + 11 * width + 3 * width * hidden + 2 * hidden
        ends = width**2 + 4 * width + (0 if first else width * (self.vae_embed_dim + 1))
        return itemsize * (self.blocks * block + ends)

    def head_bytes(self, itemsize: int) -> int:
        """Bytes of the head's weights that every evaluation reads once."""
        width, hidden = self.diffloss_w, gated_hidden(self.diffloss_w)
        block = 10 * width**2 + 8 * width + 3 * width * hidden + 2 * hidden
        if self.cross:
            block += 2 * width**2 + 2 * width * self.width + 2 * width + self.width
        ends = width * (2 * self.vae_embed_dim + self.width) + 2 * width**2 + 4 * width + self.vae_embed_dim
        times = width * (TIME_FEATURES + width) + 2 * width
        return itemsize * (self.diffloss_d * block + ends + times)


def training_mask(config: FlowArConfig) -> Tensor:
    """(1, 1, L, L) fp32: 0 where a token may attend, -inf elsewhere; a buffer of the official files."""
    allowed_LL = block_causal(config.sizes)
    return torch.zeros(allowed_LL.shape).masked_fill(~allowed_LL, -torch.inf)[None, None]


def turn_of(frequencies_P: Tensor, sides: Iterable[int], grid: int) -> Turn:
    """Rotation of the tokens of maps of `sides`, one after another, stretched to a map of `grid`."""
    tables = []
    for side in sides:
        at_l = torch.arange(side, device=frequencies_P.device).float() / side * grid
        tables.append(rope_tables(frequencies_P, at_l.repeat_interleave(side), at_l.repeat(side)))
    cos, sin = zip(*tables, strict=True)
    return Turn(torch.cat(cos), torch.cat(sin))


class FlowArBlock(ConditionedBlock):
    """A block with rotary frequencies of its own."""

    def __init__(self, config: FlowArConfig) -> None:
        super().__init__(config.width, config.encoder_num_heads)
        self.attn.add_module("rope", Rope(config.head_dim))


class FlowAr(nn.Module):
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
        self.encoder_blocks = nn.ModuleList(FlowArBlock(config) for _ in range(config.encoder_depth))
        self.encoder_norm = RmsNorm(width)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_blocks = nn.ModuleList(FlowArBlock(config) for _ in range(config.decoder_depth))
        self.decoder_norm = RmsNorm(width)
        self.flownet = FlowHead(config.vae_embed_dim, width, config.diffloss_w, config.diffloss_d, cross=config.cross)
        register_constants(self, lambda: {"mask": training_mask(config)})

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that follow from the configuration: rotary frequencies and the mask."""
        names = [name for name, _ in self.named_buffers() if name != "mask"]
        own, head = rope_frequencies(self.config.head_dim), rope_frequencies(HEAD_DIM)
        turned = {name: (head if name.startswith("flownet") else own).clone() for name in names}
        return {"mask": training_mask(self.config), **turned}

    def turns(self, sides: Iterable[int]) -> tuple[Turn, Turn]:
        """Rotations of the transformer and of the head for tokens of maps of `sides`."""
        block = self.encoder_blocks[0] if len(self.encoder_blocks) else self.decoder_blocks[0]
        own, head = block.get_buffer("attn.rope.freqs"), self.flownet.res_blocks[0].get_buffer("attn.rope.freqs")
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
        end = start + x_RlC.shape[1]
        attending = partial(Attending, turn, cache=cache, kept=end - start, mask_lT=mask_lT)
        x_RlC = self.z_proj_ln(x_RlC + self.encoder_pos_embed_learned[:, start:end])
        x_RlC = _run(self.encoder_blocks, x_RlC, classes_R1C, attending, 0)
        x_RlC = self.decoder_embed(self.encoder_norm(x_RlC)) + self.decoder_pos_embed_learned[:, start:end]
        x_RlC = _run(self.decoder_blocks, x_RlC, classes_R1C, attending, len(self.encoder_blocks))
        z_RlC: Tensor = self.decoder_norm(x_RlC) + self.diffusion_pos_embed_learned[:, start:end]
        return z_RlC

    def embed(self, latents_RlK: Tensor) -> Tensor:
        """Embed resized latents of the scale before, (R, l, C)."""
        x_RlC: Tensor = self.z_proj(latents_RlK.to(self.z_proj.weight.dtype))
        return x_RlC


def _run(
    blocks: nn.ModuleList, x_RlC: Tensor, classes_R1C: Tensor, attending: Callable[[], Attending], first_layer: int
) -> Tensor:
    for number, block in enumerate(blocks):
        x_RlC = block(x_RlC, classes_R1C, attending(), first_layer + number)
    return x_RlC


def resized(latents_BlK: Tensor, side: int, after: int, grid: int) -> Tensor:
    """Latents (B, l, K) of a scale as input of the next one: to the finest map (bicubic), then down (area)."""
    map_BKhw = latents_BlK.float().transpose(1, 2).unflatten(2, (side, side))
    fine_BKhw = F.interpolate(map_BKhw, size=(grid, grid), mode="bicubic")
    down_BKhw = F.interpolate(fine_BKhw, size=(after, after), mode="area")
    return down_BKhw.flatten(2).transpose(1, 2)
