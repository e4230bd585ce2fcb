"""Multi-scale residual VQ-VAE: the tokenizer of VAR, M-VAR and HMAR.

An image is a sum over scales: each scale's codes are enlarged to the last resolution, blended with a convolution
(phi) and added to `f_hat`. Tokens are in raster order inside a scale; scales go from coarse to fine.

Shapes   B images, C code channels, V codebook entries, S scales, l = pn * pn tokens of one scale,
         h w latent sides (the last patch number), H W image sides
Range    images [-1, 1]
Source   VAR (arXiv:2404.02905) section 3.2, algorithms 1 and 2; behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.tokenizers.autoencoder import Decoder, Encoder, path_flops
from arvbench.adapters.tokenizers.tokenizer import Canvas, ScaleTokenizer, Sides, area_tokens
from arvbench.kernels.dispatch import KernelSet
from arvbench.kernels.next_scale_input.plan import Blend, ScalePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class VqVaeConfig:
    """Constructor arguments under their official names; the defaults fit `vae_ch160v4096z32`."""

    vocab_size: int = 4096
    z_channels: int = 32
    ch: int = 160
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    using_znorm: bool = False
    quant_conv_ks: int = 3
    quant_resi: float = 0.5
    share_quant_resi: int = 4
    """Number of phi convolutions: 1 shared by all scales, 0 one per scale, else this many."""
    beta: float = 0.25
    """Weight of the commitment term in training."""
    v_patch_nums: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)

    @property
    def code_dim(self) -> int:
        """Channels of a code vector under the name that all tokenizers share."""
        return self.z_channels

    @property
    def downsample(self) -> int:
        """Image side over latent side."""
        return int(2 ** (len(self.ch_mult) - 1))

    @property
    def sides(self) -> Sides:
        """Height and width of the configured scales."""
        return tuple((pn, pn) for pn in self.v_patch_nums)


DEMO_TOKENIZER = VqVaeConfig(
    vocab_size=256, z_channels=16, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, v_patch_nums=(1, 2, 3, 4, 6, 8)
)
"""Tokenizer of the demo models: 32 px in six scales, 130 tokens."""


class Phi(nn.Conv2d):
    """(1 - r) h + r conv3x3(h): blends the enlarged codes of one scale."""

    def __init__(self, channels: int, quant_resi: float) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.ratio = abs(quant_resi)

    def forward(self, h: Tensor) -> Tensor:
        return h.mul(1 - self.ratio) + super().forward(h).mul(self.ratio)


def phi_ticks(count: int) -> np.ndarray:
    """Positions in (0, 1) of `count` phi convolutions, float64.

    Four convolutions sit on thirds of the outer cells, any other number in the middle of its cell. With ten scales two
    choices are mathematical ties that float64 rounding decides, so the expression itself is part of the format.
    """
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    return np.linspace(margin, 1 - margin, count)


class SharedPhi(nn.Module):
    """One convolution for all scales (`quant_resi.qresi`)."""

    def __init__(self, phi: Phi) -> None:
        super().__init__()
        self.qresi = phi

    def at(self, position: float) -> Phi:
        return self.qresi


class PartlySharedPhi(nn.Module):
    """A few convolutions (`quant_resi.qresi_ls.i`); a scale takes the one with the nearest tick."""

    def __init__(self, phis: Sequence[Phi]) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(phis)
        self._ticks = phi_ticks(len(phis))

    def at(self, position: float) -> Phi:
        phi = self.qresi_ls[int(np.argmin(np.abs(self._ticks - position)))]
        assert isinstance(phi, Phi)
        return phi


class PerScalePhi(nn.ModuleList):
    """One convolution per scale (`quant_resi.i`), chosen by tick like the partly shared ones."""

    def __init__(self, phis: Sequence[Phi]) -> None:
        super().__init__(phis)
        self._ticks = phi_ticks(len(phis))

    def at(self, position: float) -> Phi:
        phi = self[int(np.argmin(np.abs(self._ticks - position)))]
        assert isinstance(phi, Phi)
        return phi


class ScaleCode(NamedTuple):
    """One scale of the residual pyramid."""

    target_BCpp: Tensor
    """Input of the quantisation: the resized residual."""
    ids_Bl: Tensor
    f_hat_BChw: Tensor
    """Sum of this and all coarser scales."""


class ResidualQuantizer(nn.Module):
    """The codebook and the residual pyramid over it. Always computes in fp32."""

    def __init__(self, config: VqVaeConfig) -> None:
        super().__init__()
        self.config = config
        channels, scales = config.z_channels, len(config.v_patch_nums)
        self.embedding = nn.Embedding(config.vocab_size, channels)
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(scales, config.vocab_size))
        phis = [Phi(channels, config.quant_resi) for _ in range(config.share_quant_resi or scales)]
        self.quant_resi: SharedPhi | PartlySharedPhi | PerScalePhi
        if config.share_quant_resi == 1:
            self.quant_resi = SharedPhi(phis[0])
        elif config.share_quant_resi == 0:
            self.quant_resi = PerScalePhi(phis)
        else:
            self.quant_resi = PartlySharedPhi(phis)

    def phi(self, scale: int, scales: int) -> Phi:
        """The convolution of `scale` out of `scales`."""
        return self.quant_resi.at(scale / (scales - 1))

    def contribution(self, codes_BCpp: Tensor, scale: int, scales: int, size: tuple[int, int]) -> Tensor:
        """Summand of f_hat for one scale: its code vectors enlarged to `size` (B, C, h, w) and blended."""
        if scale < scales - 1:
            codes_BCpp = F.interpolate(codes_BCpp, size=size, mode="bicubic")
        added_BChw: Tensor = self.phi(scale, scales)(codes_BCpp)
        return added_BChw

    def lookup(self, ids_Bl: Tensor, side: tuple[int, int]) -> Tensor:
        """Code vectors (B, C, ph, pw) of one scale's ids."""
        codes_BCpp: Tensor = self.embedding(ids_Bl).transpose(1, 2).unflatten(2, side)
        return codes_BCpp

    def nearest(self, z_BCpp: Tensor) -> Tensor:
        """Ids (B, l) of the nearest codes: squared L2, or cosine with `using_znorm`."""
        z_nC = z_BCpp.permute(0, 2, 3, 1).reshape(-1, z_BCpp.shape[1])
        codes_VC = self.embedding.weight
        if self.config.using_znorm:
            ids = (F.normalize(z_nC, dim=-1) @ F.normalize(codes_VC, dim=-1).T).argmax(dim=1)
        else:
            squared = z_nC.square().sum(1, keepdim=True) + codes_VC.square().sum(1)
            ids = torch.addmm(squared, z_nC, codes_VC.T, alpha=-2).argmin(dim=1)
        return ids.view(len(z_BCpp), -1)

    def pyramid(self, f_BChw: Tensor, sides: Sides | None = None) -> Iterator[ScaleCode]:
        """Quantise scale by scale: each takes the residual of the scales before it, resized to its side.

        `sides` None takes the configured scales. `f_hat` carries gradients to codebook and phi; targets and ids do not.
        """
        sides = sides or self.config.sides
        size = (f_BChw.shape[2], f_BChw.shape[3])
        rest_BChw, f_hat_BChw = f_BChw.detach(), torch.zeros_like(f_BChw)
        for scale, side in enumerate(sides):
            last = scale == len(sides) - 1
            target_BCpp = rest_BChw if last else F.interpolate(rest_BChw, size=side, mode="area")
            ids_Bl = self.nearest(target_BCpp)
            added_BChw = self.contribution(self.lookup(ids_Bl, side), scale, len(sides), size)
            f_hat_BChw, rest_BChw = f_hat_BChw + added_BChw, rest_BChw - added_BChw.detach()
            yield ScaleCode(target_BCpp, ids_Bl, f_hat_BChw)

    def targets(self, f_BChw: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Inputs of the quantisation per scale: vectors (n, C) and the ids (n,) of their nearest codes."""
        return [(c.target_BCpp.permute(0, 2, 3, 1).flatten(0, 2), c.ids_Bl.flatten()) for c in self.pyramid(f_BChw)]

    def encode(self, f_BChw: Tensor, sides: Sides | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """Ids of every scale, each (B, l), and the f_hat (B, C, h, w) they add up to."""
        codes = list(self.pyramid(f_BChw, sides))
        return tuple(code.ids_Bl for code in codes), codes[-1].f_hat_BChw

    def straight_through(self, f_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """f_hat that passes gradients to the encoder, and the codebook and commitment loss (scalar)."""
        fixed_BChw = f_BChw.detach()
        loss = f_BChw.new_zeros(())
        for code in self.pyramid(fixed_BChw):
            loss = loss + F.mse_loss(code.f_hat_BChw, fixed_BChw)
            loss = loss + self.config.beta * F.mse_loss(code.f_hat_BChw.detach(), f_BChw)
        return code.f_hat_BChw.detach() + f_BChw - fixed_BChw, loss / len(self.config.v_patch_nums)


class ResidualCanvas(Canvas):
    """Sum of all scales at the last resolution (f_hat), area-resized for the next scale."""

    def __init__(self, quantize: ResidualQuantizer, sides: Sides, batch: int) -> None:
        super().__init__(sides)
        self._quantize = quantize
        self._f_hat = torch.zeros(
            batch, quantize.config.z_channels, *sides[-1], device=quantize.embedding.weight.device
        )
        self._ahead: tuple[int, Tensor] | None = None
        """A scale and its input (B, l, K), where a kernel has made it together with the sum."""

    @property
    def state(self) -> Tensor:
        return self._f_hat

    def lookup(self, ids_Bl: Tensor, scale: int) -> Tensor:
        return self._quantize.lookup(ids_Bl, self.sides[scale])

    def place(self, codes_BKpp: Tensor, scale: int) -> None:
        self._ahead = None
        self._f_hat = self._f_hat + self.contribution(codes_BKpp, scale)

    def contribution(self, codes_BKpp: Tensor, scale: int) -> Tensor:
        """Summand (B, K, h, w) of f_hat for the code vectors of `scale`."""
        return self._quantize.contribution(codes_BKpp, scale, len(self.sides), self.sides[-1])

    def place_ids(self, ids_Bl: Tensor, scale: int, kernels: KernelSet | None = None) -> None:
        if kernels is None or kernels.names["next_scale_input"] == "torch":
            return super().place_ids(ids_Bl, scale)
        phi = self._quantize.phi(scale, len(self.sides))
        assert phi.bias is not None
        blend = Blend(phi.weight, phi.bias, phi.ratio)
        plan = ScalePlan(self.sides[scale], (*self.sides, None)[scale + 1])
        # The kernel adds in place, but observers keep the sum of every scale.
        self._f_hat = self._f_hat.clone()
        codebook_VC = self._quantize.embedding.weight
        self._ahead = scale + 1, kernels.next_scale_input(ids_Bl, self._f_hat, codebook_VC, blend, plan)
        return None

    def input(self, scale: int) -> Tensor:
        if self._ahead is not None and self._ahead[0] == scale:
            return self._ahead[1]
        return area_tokens(self._f_hat, self.sides[scale])

    def place_tokens(self, tokens: Sequence[Tensor], kernels: KernelSet | None = None) -> Tensor:
        if kernels is None or kernels.names["next_scale_input"] == "torch":
            # A scalar zero leaves the sum in the memory layout of its codes. Rounding depends on the layout, and the
            # demo models were trained with this one.
            self._f_hat = self._f_hat.new_zeros(())
        return super().place_tokens(tokens, kernels)


class VqVae(ScaleTokenizer):
    """Encoder, residual quantizer and decoder; state-dict names equal the official file's."""

    decoding: ClassVar = ("post_quant_conv", "decoder")

    def __init__(self, config: VqVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.z_channels, config.ch, config.ch_mult, config.num_res_blocks)
        self.decoder = Decoder(config.z_channels, config.ch, config.ch_mult, config.num_res_blocks)
        self.quantize = ResidualQuantizer(config)
        kernel = config.quant_conv_ks
        self.quant_conv = nn.Conv2d(config.z_channels, config.z_channels, kernel, padding=kernel // 2)
        self.post_quant_conv = nn.Conv2d(config.z_channels, config.z_channels, kernel, padding=kernel // 2)

    def constant_buffers(self) -> dict[str, Tensor]:
        """Buffers whose values follow from the configuration (here: usage statistics of an unused tokenizer)."""
        scales = len(self.config.v_patch_nums)
        return {"quantize.ema_vocab_hit_SV": torch.zeros(scales, self.config.vocab_size)}

    def adapt_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace usage statistics of another number of scales, which do not apply to this model, as upstream does."""
        own = self.constant_buffers()
        return tensors | {k: own[k] for k in own if k in tensors and tensors[k].shape != own[k].shape}

    def features(self, images_B3HW: Tensor) -> Tensor:
        """Continuous features (B, C, h, w) fp32 before quantisation."""
        weight = self.encoder.conv_in.weight
        features_BChw: Tensor = self.quant_conv(self.encoder(images_B3HW.to(weight.dtype))).float()
        return features_BChw

    def encode_scales(self, images_B3HW: Tensor, sides: Sides) -> tuple[Tensor, ...]:
        return self.quantize.encode(self.finite_features(images_B3HW), sides)[0]

    def canvas(self, sides: Sides, batch: int) -> ResidualCanvas:
        return ResidualCanvas(self.quantize, sides, batch)

    @property
    def codebook_VK(self) -> Tensor:
        return self.quantize.embedding.weight

    def decode_map(self, map_BKhw: Tensor) -> Tensor:
        """Images (B, 3, H, W) of f_hat, clamped to [-1, 1]."""
        weight = self.post_quant_conv.weight
        images_B3HW: Tensor = self.decoder(self.post_quant_conv(map_BKhw.to(weight.dtype))).clamp(-1, 1)
        return images_B3HW

    def decode_parts(self) -> tuple[nn.Module, ...]:
        return (self.post_quant_conv, self.decoder)

    def decode_flops(self, side: tuple[int, int]) -> int:
        return path_flops((self.post_quant_conv, *self.decoder.path()), side[0] * side[1])

    def training_loss(self, images_B3HW: Tensor, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction (B, 3, H, W), not clamped, and the quantizer's loss (scalar).

        There is one size only: `side`, which other tokenizers take, must be None.
        """
        assert side is None
        f_hat, loss = self.quantize.straight_through(self.features(images_B3HW))
        return self.decoder(self.post_quant_conv(f_hat)), loss
