"""In-painting and class-conditional editing: known tokens stay, the others are drawn.

Shapes   B images, H W pixels, l tokens of one scale
Source   VAR (arXiv:2404.02905) section 5.3, zero-shot in-painting, out-painting and editing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.sampler import Observer, Samples
from arvbench.adapters.sampling import Noise
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Tokens that are known. Both are per scale, (B, l)."""

    tokens: tuple[Tensor, ...]
    keep: tuple[Tensor, ...]
    """True where the known token stays."""

    def apply(self, drawn_Bl: Tensor, scale: int) -> Tensor:
        """The drawn tokens of `scale` with the known ones in their places."""
        return torch.where(self.keep[scale], self.tokens[scale], drawn_Bl)


@runtime_checkable
class Editor(Protocol):
    """A sampler that can draw part of an image again, without training for it: VAR, M-VAR, HMAR, FlexVAR."""

    def edit(
        self,
        images: Tensor,
        keep: Tensor,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: Cache | None = None,
        observer: Observer | None = None,
    ) -> Samples:
        """Return `images` (B, 3, H, W) with what lies outside `keep` (B, H, W) bool drawn for `labels`.

        The images, float in [-1, 1] and of the size that `settings` make, are encoded. At every scale a token is kept
        when at least half of its cell is to be kept; all other tokens are drawn, given the known ones of their own and
        of earlier scales. Raises UserError, before anything is encoded, for labels, settings, images or masks that do
        not fit the model or each other.
        """
        ...


def check_images(images: Tensor, side: tuple[int, int], downsample: int) -> None:
    """Raise UserError unless `images` are (B, 3, H, W) float, of `downsample` pixels per token of the last scale."""
    height, width = side[0] * downsample, side[1] * downsample
    if images.ndim != 4 or images.shape[1:] != (3, height, width):
        wanted = f"(batch, 3, {height}, {width}), the size that these settings make"
        raise UserError(f"images must be {wanted}, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise UserError(f"images must be float in [-1, 1], got {images.dtype}: from_uint8 converts bytes")


def keep_per_scale(
    keep_BHW: Tensor, sides: Sequence[tuple[int, int]], *, images: Tensor, labels: int
) -> tuple[Tensor, ...]:
    """Per scale (B, l) bool: the tokens of which at least half the cell is to be kept.

    `images` and the number of `labels` are what the mask must fit to; raises UserError if it does not.
    """
    if keep_BHW.dtype != torch.bool:
        raise UserError(f"the mask must be boolean (True where the image is kept), got {keep_BHW.dtype}")
    if images.ndim != 4 or keep_BHW.shape != (len(images), *images.shape[2:]):
        raise UserError(f"mask {tuple(keep_BHW.shape)} does not fit images {tuple(images.shape)}: one mask per image")
    if len(images) != labels:
        raise UserError(f"there are {len(images)} images and {labels} labels: one label per image")
    share_B1HW = keep_BHW.float().unsqueeze(1)
    return tuple(F.interpolate(share_B1HW, size=side, mode="area").flatten(1) >= 0.5 for side in sides)
