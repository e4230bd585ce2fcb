"""LlamaGen's VQ tokenizer: one map of codes per image. NAR, LlamaGen and PAR use it, and FlexVAR with larger codes.

Codes and features are L2-normalised on use (the stored codebook is not), so the nearest code is the one at the smallest
angle. A map of codes of any size decodes on its own. Tokens are in raster order.

Shapes   B images, C code channels, V codebook entries, h w latent sides, l = h * w tokens, H W image sides
Range    images nominally [-1, 1]; the decoder does not clamp
Names    modules have the names of the official state dict; `decoder.conv_blocks` starts at the lowest resolution
Source   LlamaGen (arXiv:2406.06525) section 3.1; behaviour of FoundationVision/LlamaGen at ce98ec4
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.sampling import Noise
from arvbench.adapters.tokenizers.autoencoder import (
    Downsample,
    ResnetBlock,
    SplitAttention,
    Upsample,
    group_norm,
    path_flops,
)
from arvbench.adapters.tokenizers.tokenizer import IdTokenizer

_USAGE_WINDOW = 65536
"""Length of the official training statistics of recently used codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VqConfig:
    """Constructor arguments under their official names; the defaults fit VQ-16 (`vq_ds16_c2i.pt`)."""

    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    z_channels: int = 256
    ch: int = 128
    encoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    codebook_l2_norm: bool = True
    beta: float = 0.25
    """Weight of the commitment term in training (`commit_loss_beta`)."""

    @property
    def vocab_size(self) -> int:
        """V under the name that all tokenizers share."""
        return self.codebook_size

    @property
    def code_dim(self) -> int:
        """C under the name that all tokenizers share."""
        return self.codebook_embed_dim

    @property
    def downsample(self) -> int:
        """Image side over latent side."""
        return int(2 ** (len(self.decoder_ch_mult) - 1))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where `attention` is set, and then `resample`.

    `resample` is a Downsample, an Upsample or None; the official names differ (`downsample`, `upsample`).
    """

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, *, attention: bool, resample: str | None
    ) -> None:
        super().__init__()
        self.res = nn.ModuleList(
            ResnetBlock(in_channels if i == 0 else out_channels, out_channels) for i in range(blocks)
        )
        self.attn = nn.ModuleList(SplitAttention(out_channels) for _ in range(blocks if attention else 0))
        self._resample = resample
        if resample is not None:
            self.add_module(resample, {"downsample": Downsample, "upsample": Upsample}[resample](out_channels))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x if self._resample is None else self.get_submodule(self._resample)(x)


def _middle(channels: int) -> nn.ModuleList:
    return nn.ModuleList((ResnetBlock(channels, channels), SplitAttention(channels), ResnetBlock(channels, channels)))


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, z_channels, h, w)."""

    def __init__(self, z_channels: int, ch: int, ch_mult: Sequence[int], num_res_blocks: int) -> None:
        super().__init__()
        widths = [ch * m for m in ch_mult]
        lowest = len(widths) - 1
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(w_in, w_out, num_res_blocks, attention=i == lowest, resample=None if i == lowest else "downsample")
            for i, (w_in, w_out) in enumerate(zip([ch, *widths[:-1]], widths, strict=True))
        )
        self.mid = _middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for part in (*self.conv_blocks, *self.mid):
            h = part(h)
        features: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return features


class Decoder(nn.Module):
    """Features (B, z_channels, h, w) to images (B, 3, H, W), nominally in [-1, 1] and not clamped."""

    def __init__(self, z_channels: int, ch: int, ch_mult: Sequence[int], num_res_blocks: int) -> None:
        super().__init__()
        widths = [ch * m for m in reversed(ch_mult)]
        highest = len(widths) - 1
        self.conv_in = nn.Conv2d(z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0])
        self.conv_blocks = nn.ModuleList(
            Level(w_in, w_out, num_res_blocks + 1, attention=i == 0, resample=None if i == highest else "upsample")
            for i, (w_in, w_out) in enumerate(zip([widths[0], *widths[:-1]], widths, strict=True))
        )
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def path(self) -> tuple[nn.Module, ...]:
        """Modules in the order in which they run, but for the activation before the last."""
        return (self.conv_in, *self.mid, *self.conv_blocks, self.conv_out)

    def forward(self, z: Tensor) -> Tensor:
        h = z
        for part in self.path()[:-1]:
            h = part(h)
        images: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return images


class CodebookConfig(Protocol):
    """Part of a tokenizer's configuration that its codebook reads; `VqConfig` has the meanings."""

    @property
    def codebook_size(self) -> int: ...

    @property
    def codebook_embed_dim(self) -> int: ...

    @property
    def codebook_l2_norm(self) -> bool: ...

    @property
    def beta(self) -> float: ...


class Codebook(nn.Module):
    """V code vectors. Always computes in fp32."""

    codebook_used: Tensor

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_embed_dim)
        self.register_buffer("codebook_used", torch.zeros(_USAGE_WINDOW))

    def lookup(self, ids_Bl: Tensor, side: tuple[int, int]) -> Tensor:
        """Code vectors (B, C, h, w) of ids in raster order, L2-normalised with `codebook_l2_norm`."""
        codes_BChw: Tensor = self._normalized(self.embedding(ids_Bl)).transpose(1, 2).unflatten(2, side)
        return codes_BChw

    @property
    def codes_VC(self) -> Tensor:
        """All code vectors as `lookup` returns them."""
        return self._normalized(self.embedding.weight)

    def nearest(self, z_BChw: Tensor) -> Tensor:
        """Ids (B, l) of the codes nearest to (normalised) features."""
        z_nC = self._normalized(z_BChw.permute(0, 2, 3, 1)).reshape(-1, z_BChw.shape[1])
        codes_VC = self.codes_VC
        squared_nV = z_nC.square().sum(1, keepdim=True) + codes_VC.square().sum(1)
        return torch.addmm(squared_nV, z_nC, codes_VC.T, alpha=-2).argmin(dim=1).view(len(z_BChw), -1)

    def targets(self, z_BChw: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Inputs of the quantisation, a single pair: vectors (n, C) and the ids (n,) of their nearest codes."""
        return [(z_BChw.permute(0, 2, 3, 1).flatten(0, 2), self.nearest(z_BChw).flatten())]

    def before_quantisation(self, z_BChw: Tensor) -> Tensor:
        """Features as they are compared with codes: L2-normalised with `codebook_l2_norm`."""
        return self._normalized(z_BChw.movedim(1, -1)).movedim(-1, 1)

    def straight_through(self, z_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """Code vectors (B, C, h, w) that pass gradients to the encoder, and codebook plus commitment loss (scalar)."""
        codes_BChw = self.lookup(self.nearest(z_BChw), (z_BChw.shape[2], z_BChw.shape[3]))
        z_BChw = self.before_quantisation(z_BChw)
        loss = F.mse_loss(codes_BChw, z_BChw.detach()) + self.config.beta * F.mse_loss(codes_BChw.detach(), z_BChw)
        return z_BChw + (codes_BChw - z_BChw).detach(), loss

    def _normalized(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.config.codebook_l2_norm else x


class VqModel(IdTokenizer):
    """Encoder, codebook and decoder; state-dict names equal the official file's."""

    quantize: Codebook
    decoding: ClassVar = ("post_quant_conv", "decoder")

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.config = config
        z, channels = config.z_channels, config.codebook_embed_dim
        self.encoder = Encoder(z, config.ch, config.encoder_ch_mult, config.num_res_blocks)
        self.decoder = Decoder(z, config.ch, config.decoder_ch_mult, config.num_res_blocks)
        self.quantize = Codebook(config)
        self.quant_conv = nn.Conv2d(z, channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, z, 1)

    def constant_buffers(self) -> dict[str, Tensor]:
        """Buffers whose values follow from the configuration (here: usage statistics of an unused tokenizer)."""
        return {"quantize.codebook_used": torch.zeros(_USAGE_WINDOW)}

    def features(self, images_B3HW: Tensor) -> Tensor:
        """Continuous features (B, C, h, w) fp32 before normalisation and quantisation."""
        weight = self.encoder.conv_in.weight
        features_BChw: Tensor = self.quant_conv(self.encoder(images_B3HW.to(weight.dtype))).float()
        return features_BChw

    def encode(self, images_B3HW: Tensor) -> Tensor:
        """Ids (B, l)."""
        return self.quantize.nearest(self.finite_features(images_B3HW))

    def decode_map(self, map_BKhw: Tensor) -> Tensor:
        """Images (B, 3, H, W), not clamped, of code vectors."""
        weight = self.post_quant_conv.weight
        images_B3HW: Tensor = self.decoder(self.post_quant_conv(map_BKhw.to(weight.dtype)))
        return images_B3HW

    def decode_parts(self) -> tuple[nn.Module, ...]:
        return (self.post_quant_conv, self.decoder)

    def decode_flops(self, side: tuple[int, int]) -> int:
        return path_flops((self.post_quant_conv, *self.decoder.path()), side[0] * side[1])

    def decode(self, ids_Bl: Tensor, noise: Noise | None = None, *, side: tuple[int, int] | None = None) -> Tensor:
        """Images (B, 3, H, W), not clamped, of the ids of a map of `side` (height, width); None: a square."""
        return self.decode_map(self.quantize.lookup(ids_Bl, side or (math.isqrt(ids_Bl.shape[1]),) * 2))

    def coarser(self, features_BChw: Tensor, side: int) -> Tensor:
        """Features averaged down to a map of `side`."""
        return F.interpolate(features_BChw, size=(side, side), mode="area")

    def training_loss(self, images_B3HW: Tensor, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction (B, 3, H, W) and the quantizer's loss (scalar).

        With `side` the features are first averaged to a map of that side, and the reconstruction shrinks alike:
        FlexVAR's tokenizer has to work at many sizes (arXiv:2502.20313, section 3.1).
        """
        features_BChw = self.features(images_B3HW)
        if side is not None:
            features_BChw = self.coarser(features_BChw, side)
        codes_BChw, loss = self.quantize.straight_through(features_BChw)
        return self.decode_map(codes_BChw), loss
