"""Convolutional encoder and decoder of the VQGAN line, as the multi-scale residual VQ-VAE and the KL VAE use them.

The `vq` tokenizer has these blocks under other names.

Shapes   B images, C channels, H W pixels, h w latent sides (H / 2**(levels - 1))
Names    modules have the names of the official state dict; `up.i` is the level of resolution i, run from last to first
Source   VQGAN (arXiv:2012.09841) appendix; behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = 32
_EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation of all tokenizers: 32 groups, eps 1e-6."""
    return nn.GroupNorm(_GROUPS, channels, eps=_EPS)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x when the channel count changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.nin_shortcut(x) + h
        return out


def attend(q_BChw: Tensor, k_BChw: Tensor, v_BChw: Tensor) -> Tensor:
    """Single-head attention (B, C, h, w) over all positions, softmax scale 1 / sqrt(C)."""
    q, k, v = (t.flatten(2).transpose(1, 2) for t in (q_BChw, k_BChw, v_BChw))
    out_BnC = F.scaled_dot_product_attention(q, k, v)
    out_BChw: Tensor = out_BnC.transpose(1, 2).unflatten(2, q_BChw.shape[-2:])
    return out_BChw


class PositionAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map; a subclass projects to q, k and v."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = group_norm(channels)


class SpatialAttention(PositionAttention):
    """Attention with one projection for q, k and v."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.proj_out(attend(*self.qkv(self.norm(x)).chunk(3, dim=1)))
        return out


class SplitAttention(PositionAttention):
    """Attention with one projection each for q, k and v."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        out: Tensor = x + self.proj_out(attend(self.q(h), self.k(h), self.v(h)))
        return out


class Downsample(nn.Module):
    """Halve both sides: stride-2 convolution over a zero row below and a zero column on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Double both sides: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return doubled


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, attention: type[PositionAttention]) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = attention(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by `attention` where that is a class."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, *, attention: type[PositionAttention] | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(in_channels if i == 0 else out_channels, out_channels) for i in range(blocks)
        )
        self.attn = nn.ModuleList(attention(out_channels) for _ in range(blocks) if attention)
        # Bound by the encoder (downsample) or the decoder (upsample); the other name stays unused.
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        resampled: Tensor = self.upsample(self.downsample(x))
        return resampled


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to features (B, z_channels, h, w)."""

    def __init__(
        self,
        z_channels: int,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        *,
        attention: type[PositionAttention] = SpatialAttention,
    ) -> None:
        super().__init__()
        widths = [ch * m for m in ch_mult]
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, (w_in, w_out) in enumerate(zip([ch, *widths], widths, strict=False)):
            last = i == len(widths) - 1
            level = Level(w_in, w_out, num_res_blocks, attention=attention if last else None)
            if not last:
                level.downsample = Downsample(w_out)
            self.down.append(level)
        self.mid = Middle(widths[-1], attention)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        features: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return features


class Decoder(nn.Module):
    """Features (B, z_channels, h, w) to images (B, 3, H, W), nominally in [-1, 1] and not clamped.

    `level_attention` is that of the lowest level; None leaves attention to the middle.
    """

    def __init__(
        self,
        z_channels: int,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        *,
        attention: type[PositionAttention] = SpatialAttention,
        level_attention: type[PositionAttention] | None = SpatialAttention,
    ) -> None:
        super().__init__()
        widths = [ch * m for m in ch_mult]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], attention)
        self.up = nn.ModuleList()
        for i, w_out in enumerate(widths):
            last = i == len(widths) - 1
            w_in = widths[-1] if last else widths[i + 1]
            level = Level(w_in, w_out, num_res_blocks + 1, attention=level_attention if last else None)
            if i > 0:
                level.upsample = Upsample(w_out)
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def path(self) -> tuple[nn.Module, ...]:
        """Modules in the order in which they run, but for the activation before the last."""
        return (self.conv_in, self.mid, *reversed(self.up), self.conv_out)

    def forward(self, z: Tensor) -> Tensor:
        h = z
        for part in self.path()[:-1]:
            h = part(h)
        images: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return images


def path_flops(path: Iterable[nn.Module], pixels: int) -> int:
    """FLOPs per image of the convolutions and attentions on a path of modules that starts at maps of `pixels` pixels.

    Equal to a count of the operations on the meta device, which would import torch's compiler first.
    """
    flops = 0
    for module in itertools.chain.from_iterable(part.modules() for part in path):
        if isinstance(module, Upsample):
            pixels *= 4  # for its own convolution already
        elif isinstance(module, nn.Conv2d):
            flops += 2 * pixels * module.weight.numel()
        elif isinstance(module, PositionAttention):
            flops += 4 * pixels**2 * module.channels
    return flops
