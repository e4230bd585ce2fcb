"""What a next-scale model has drawn so far: the seam between the sampling loop and its tokenizer.

Shapes   B images, K code channels, ph pw sides of one scale's token map, h w latent sides (those of the last scale),
         l = ph * pw tokens of one scale
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from arvbench.errors import UserError

Sides = tuple[tuple[int, int], ...]
"""Height and width of the token map of every scale, in the order of generation."""


class Canvas(ABC):
    """Takes the code vectors of one scale after the other."""

    def __init__(self, sides: Sides) -> None:
        self.sides = sides

    @property
    @abstractmethod
    def state(self) -> Tensor:
        """(B, K, h, w): what all scales so far add up to."""

    @abstractmethod
    def lookup(self, ids_Bl: Tensor, scale: int) -> Tensor:
        """Code vectors (B, K, ph, pw) of a scale's ids."""

    @abstractmethod
    def place(self, codes_BKpp: Tensor, scale: int) -> None:
        """Add the code vectors of `scale`."""

    @abstractmethod
    def input(self, scale: int) -> Tensor:
        """(B, l, K): what the transformer reads to predict `scale` (not the first)."""

    @abstractmethod
    def decode(self) -> Tensor:
        """Images (B, 3, H, W) float, nominally in [0, 1]."""


def area_tokens(map_BKhw: Tensor, side: tuple[int, int]) -> Tensor:
    """(B, l, K): a feature map averaged down to `side`, in raster order."""
    return F.interpolate(map_BKhw, size=side, mode="area").flatten(2).transpose(1, 2)


def check_tokens(tokens: Sequence[Tensor], sides: Sides) -> None:
    """Raise UserError unless `tokens` are (B, l) for every one of `sides`, of one batch B."""
    fits = [t.shape == (*tokens[0].shape[:1], h * w) for t, (h, w) in zip(tokens, sides, strict=False)]
    if len(tokens) != len(sides) or not all(fits):
        given = ", ".join("x".join(map(str, t.shape)) for t in tokens) or "none"
        wanted = ", ".join(f"{h}x{w}" for h, w in sides)
        raise UserError(
            f"tokens per scale (batch x tokens: {given}) do not fit the scales {wanted}: pass a tensor (B, l) per "
            "scale, and pass the settings they were made with"
        )
