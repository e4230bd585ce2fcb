"""KL-regularised VAE of 16 channels: images to continuous latents and back, without a codebook.

The encoder gives mean and log-variance of a Gaussian over latents. Models work on latents times `scale`, which have a
standard deviation of about one; decoding divides by it. All models with continuous tokens share this network.

Shapes   B images, K latent channels, h w latent sides, H W image sides
Range    images nominally [-1, 1]; the decoder does not clamp
Names    modules have the names of the official state dict
Source   MAR (arXiv:2406.11838) section 4; behaviour of LTH14/mar at fe470ac, whose file xAR and FlowAR share
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from arvbench.adapters.tokenizers.autoencoder import Decoder, Encoder, SplitAttention, path_flops
from arvbench.adapters.tokenizers.tokenizer import Tokenizer

_LOG_VARIANCES = (-30.0, 20.0)
"""Limits of the log-variance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KlConfig:
    """Constructor arguments under their official names; the defaults fit KL-16 (`kl16.ckpt`)."""

    embed_dim: int = 16
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    scale: float = 0.2325
    """Factor between the encoder's latents and those that models work on."""
    kl_weight: float = 1e-6
    """Weight of the divergence from the standard normal in training."""

    @property
    def code_dim(self) -> int:
        """K under the name that all tokenizers share."""
        return self.embed_dim

    @property
    def downsample(self) -> int:
        """Image side over latent side."""
        return int(2 ** (len(self.ch_mult) - 1))


class KlVae(Tokenizer):
    """Encoder and decoder; state-dict names equal the official file's."""

    config: KlConfig
    decoding: ClassVar = ("post_quant_conv", "decoder")
    quantize: ClassVar[None] = None
    """Latents have no codebook."""

    def __init__(self, config: KlConfig) -> None:
        super().__init__()
        self.config = config
        dim, sizes = config.embed_dim, (config.ch, config.ch_mult, config.num_res_blocks)
        self.encoder = Encoder(2 * dim, *sizes, attention=SplitAttention)
        self.decoder = Decoder(dim, *sizes, attention=SplitAttention, level_attention=None)
        self.quant_conv = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.post_quant_conv = nn.Conv2d(dim, dim, 1)

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return no buffers: the official file has parameters alone."""
        return {}

    def moments(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, (B, K, h, w) fp32 each, of the latents before `scale`."""
        weight = self.encoder.conv_in.weight
        both_B2Khw = self.quant_conv(self.encoder(images_B3HW.to(weight.dtype))).float()
        mean_BKhw, log_variance_BKhw = both_B2Khw.chunk(2, dim=1)
        return mean_BKhw, log_variance_BKhw

    def features(self, images_B3HW: Tensor) -> Tensor:
        """Latents (B, K, h, w) fp32 that models work on, at the mean of their distribution."""
        mean_BKhw, _ = self.moments(images_B3HW)
        features_BKhw: Tensor = mean_BKhw * self.config.scale
        return features_BKhw

    def sampled(self, images_B3HW: Tensor, noise_BKhw: Tensor) -> Tensor:
        """Latents (B, K, h, w) fp32 that models work on, drawn with standard normal noise."""
        mean_BKhw, log_variance_BKhw = self.moments(images_B3HW)
        latents_BKhw: Tensor = self._drawn(mean_BKhw, log_variance_BKhw, noise_BKhw) * self.config.scale
        return latents_BKhw

    def _drawn(self, mean_BKhw: Tensor, log_variance_BKhw: Tensor, noise_BKhw: Tensor) -> Tensor:
        deviation_BKhw = (0.5 * log_variance_BKhw.clamp(*_LOG_VARIANCES)).exp()
        return mean_BKhw + deviation_BKhw * noise_BKhw

    def decode_map(self, map_BKhw: Tensor) -> Tensor:
        """Images (B, 3, H, W), not clamped, of latents as models work on them."""
        latents_BKhw = (map_BKhw / self.config.scale).to(self.post_quant_conv.weight.dtype)
        images_B3HW: Tensor = self.decoder(self.post_quant_conv(latents_BKhw))
        return images_B3HW

    def decode_parts(self) -> tuple[nn.Module, ...]:
        return (self.post_quant_conv, self.decoder)

    def decode_flops(self, side: tuple[int, int]) -> int:
        return path_flops((self.post_quant_conv, *self.decoder.path()), side[0] * side[1])

    def training_loss(self, images_B3HW: Tensor, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction (B, 3, H, W) of drawn latents, and the weighted divergence per latent (scalar).

        Noise comes from torch's generator of the CPU. `side` is for tokenizers of several sizes: here None.
        """
        assert side is None, "the latents have one size"
        mean, log_variance = self.moments(images_B3HW)
        drawn = self._drawn(mean, log_variance, torch.randn(mean.shape).to(mean.device))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return self.decode_map(drawn * self.config.scale), self.config.kl_weight * divergence
