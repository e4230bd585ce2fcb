"""Smooth sampling of VAR and M-VAR: mixtures of code vectors replace the sampled ones.

Shapes   B images, l tokens of one scale, V codebook entries, K code channels
Source   behaviour of FoundationVision/VAR at 78b9539 (`more_smooth`)
"""

from __future__ import annotations

from typing import Self

from torch import Tensor

from arvbench.adapters.sampling import gumbel_softmax
from arvbench.adapters.settings import SamplingSettings


class SmoothSettings(SamplingSettings):
    """`cfg` is the guidance strength at the last scale, ramped up linearly from 0 at the first."""

    more_smooth: bool = False
    """Mix code vectors by Gumbel-softmax instead of taking the sampled ones; for pictures, not for FID."""

    def replayable(self) -> Self:
        return self.model_copy(update={"more_smooth": False})


def mix_codes(filtered_BlV: Tensor, exponential_BlV: Tensor, progress: float, codebook_VK: Tensor) -> Tensor:
    """Mix code vectors (B, l, K) by Gumbel-softmax; the mixture hardens with `progress` through the scales, 0..1."""
    temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
    weights_BlV = gumbel_softmax(filtered_BlV * (1 + progress), exponential_BlV, temperature)
    return weights_BlV @ codebook_VK
