"""FastVAR's token pruning: which tokens of a scale a sublayer computes, and what stands in for the others.

Shapes   R forward rows, l tokens of one scale, n kept tokens, m tokens of the cached scale, C width
Source   FastVAR (arXiv:2503.23367); behaviour of csguoh/FastVAR at 34cdd65
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.selecting import best


def kept_count(tokens: int, ratio: float) -> int:
    """Tokens that are computed when the share `ratio` is pruned."""
    return tokens - int(tokens * ratio)


def distinct_tokens(x_RlC: Tensor, count: int) -> Tensor:
    """Ascending positions (R, n) of the tokens farthest, in squared L2, from the mean token of their row."""
    distance_Rl = (x_RlC - x_RlC.mean(dim=1, keepdim=True)).square().sum(dim=-1)
    return best(distance_Rl, count)


def gather_tokens(x_RlC: Tensor, kept_Rn: Tensor) -> Tensor:
    """Tokens (R, n, C) at the kept positions."""
    return x_RlC.gather(1, kept_Rn[..., None].expand(-1, -1, x_RlC.shape[-1]))


def restore(y_RnC: Tensor, kept_Rn: Tensor, cached_RmC: Tensor, sides: tuple[tuple[int, int], ...]) -> Tensor:
    """Output (R, l, C) of a sublayer: `y_RnC` where it was computed, elsewhere the cached map, area-resized.

    `sides` are the sides of the cached map and of the scale.
    """
    (height, width), side = sides
    map_RChw = cached_RmC.transpose(1, 2).unflatten(2, (height, width))
    whole_RlC = F.interpolate(map_RChw, size=side, mode="area").flatten(2).transpose(1, 2)
    return torch.scatter(whole_RlC.contiguous(), 1, kept_Rn[..., None].expand_as(y_RnC), y_RnC.to(whole_RlC.dtype))
