"""Rotary positions: every channel pair of a query or key turns by an angle of its token.

Shapes   X any leading dimensions, l tokens, D head channels, P = D / 2 pairs
"""

from __future__ import annotations

import torch
from torch import Tensor

_WHOLE_VECTORS = 8
"""Complex numbers of a vector of AVX-512: a multiple fills whole vectors with AVX2 as well."""


def rotate(x_XlD: Tensor, rope_lP2: Tensor) -> Tensor:
    """Rotate each channel pair (2i, 2i + 1) by the token's i-th angle, in fp32; return (X, l, D) in the dtype of x.

    The table holds cosine and sine of every angle, next to each other.
    """
    pairs_XlP2 = x_XlD.float().unflatten(-1, (-1, 2))
    if x_XlD.device.type == "cpu" and rope_lP2.shape[-2] % _WHOLE_VECTORS == 0:
        # A product of complex numbers reads memory in order: five to eight times as fast as the sums below. Its bits
        # are equal in whole vectors; at their end, torch multiplies scalars, with other rounding.
        turned_XlP = torch.view_as_complex(pairs_XlP2) * torch.view_as_complex(rope_lP2.contiguous())
        return torch.view_as_real(turned_XlP).flatten(-2).to(x_XlD.dtype)
    even, odd = pairs_XlP2.unbind(-1)
    cos, sin = rope_lP2.unbind(-1)
    turned_XlP2 = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return turned_XlP2.flatten(-2).to(x_XlD.dtype)
