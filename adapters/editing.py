"""In-painting and class-conditional editing: known tokens stay, all others are drawn.

Shapes   B images, H W pixels, l tokens of one scale
Source   VAR (arXiv:2404.02905) section 5.3, zero-shot in-painting, out-painting and editing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPixels:
    """Images to edit: pixels inside the mask are known, all others are drawn.

    A token of any scale is known when at least half of its cell is known. All other tokens are drawn, given the known
    tokens of their own and of earlier scales.
    """

    images: Tensor
    """(B, 3, H, W) float in [-1, 1], of the size that the settings generate."""
    keep: Tensor
    """(B, H, W) bool: True where a pixel is known."""

    def check(self, shape: tuple[int, int], labels: int) -> None:
        """Raise UserError unless there are `labels` images and masks of `shape` (height, width)."""
        images, keep = self.images, self.keep
        if images.ndim != 4 or images.shape[1:] != (3, *shape):
            expected = f"(batch, 3, {shape[0]}, {shape[1]}), the size that these settings make"
            raise UserError(f"images must be {expected}, got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise UserError(f"images must be float in [-1, 1], got {images.dtype}: from_uint8 converts bytes")
        if keep.dtype != torch.bool:
            raise UserError(f"the mask must be boolean (True where the image is kept), got {keep.dtype}")
        if keep.shape != (len(images), *shape):
            raise UserError(f"mask {tuple(keep.shape)} does not fit images {tuple(images.shape)}: one mask per image")
        if len(images) != labels:
            raise UserError(f"there are {len(images)} images and {labels} labels: one label per image")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTokens:
    """Known tokens of an editing call, (B, l) per scale."""

    tokens: tuple[Tensor, ...]
    keep: tuple[Tensor, ...]
    """True where the known token stays."""

    def apply(self, drawn_Bl: Tensor, scale: int) -> Tensor:
        """Return the drawn tokens of `scale`, overwritten by the known ones."""
        return torch.where(self.keep[scale], self.tokens[scale], drawn_Bl)


def keep_per_scale(keep_BHW: Tensor, sides: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    """Downsample a mask to each scale, (B, l) bool: True where at least half of the cell is True."""
    share_B1HW = keep_BHW.float().unsqueeze(1)
    return tuple(F.interpolate(share_B1HW, size=side, mode="area").flatten(1) >= 0.5 for side in sides)
