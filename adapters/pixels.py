"""Ranges of image floats, and the rules that round them to bytes.

Shapes   B images, H W height and width
Range    floats nominally in [0, 1]; bytes uint8 0..255
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from arvbench.adapters.settings import Uint8Rule
from arvbench.errors import UserError


def to_unit_range(images: Tensor) -> Tensor:
    """Map float images from [-1, 1] to [0, 1], without clamping."""
    return images.float().add(1).mul(0.5)


def from_uint8(images: Tensor) -> Tensor:
    """Map uint8 images to float in [-1, 1], the range of `Sampler.encode`."""
    return images.float().div(127.5).sub(1)


def to_uint8(decoded: Tensor, rule: Uint8Rule | str) -> Tensor:
    """Round float images, nominally in [0, 1], to uint8 by the named rule; values outside are clamped.

    "truncate"    int(255 x): VAR and M-VAR
    "round"       int(255 x + 0.5): HMAR and FlexVAR (torchvision's save_image)
    "127.5x+128"  int(127.5 y + 128) with y = 2 x - 1 in [-1, 1]: LlamaGen, NAR and PAR

    The last two are equal in exact arithmetic. In fp32 they differ by one where the number is within rounding (about
    1e-5) of an integer: about two bytes in a million. Raises UserError for an unknown rule.
    """
    x = decoded.float()
    match rule:
        case "truncate":
            scaled = x.mul(255)
        case "round":
            scaled = x.mul(255).add_(0.5)
        case "127.5x+128":
            scaled = x.mul(2).sub_(1).mul_(127.5).add_(128)
        case _:
            raise UserError(f"no uint8 rule {rule!r}; known: {', '.join(get_args(Uint8Rule))}")
    return scaled.clamp_(0, 255).to(torch.uint8)
