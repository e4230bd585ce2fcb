"""Rotary positions by the sums that define them, and inputs as they lie in a projection."""

from __future__ import annotations

import torch
from torch import Tensor


def by_sums(x_XlD: Tensor, rope_lP2: Tensor) -> Tensor:
    """Turn each channel pair by the token's angle, in the dtype of x."""
    even, odd = x_XlD.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope_lP2.unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def rotated_inputs(rows: int, tokens: int, heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Queries and keys (2, R, H, l, D) as they lie in a projection, and a table (l, D / 2, 2)."""
    generator = torch.Generator().manual_seed(width)
    qkv = torch.randn(rows, tokens, 3, heads, width, generator=generator)
    angles = torch.rand(tokens, width // 2, generator=generator) * 6
    return qkv.permute(2, 0, 3, 1, 4)[:2], torch.stack((angles.cos(), angles.sin()), dim=-1)
