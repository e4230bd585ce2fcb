"""Counter-based random numbers: a hash of (seed, stream, image, step, position), equal on every device.

Shapes   B images, l positions of one step, V codebook entries
Range    uniform numbers are fp64 in [0, 1)
Source   SplitMix64 (Steele, Lea, Flood 2014): a 64-bit finaliser over a Weyl sequence
"""

from __future__ import annotations

import torch
from torch import Tensor

# int64 arithmetic wraps in torch, so every device computes equal bits; constants above 2**63 are written as their two's
# complement.
GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def image_keys(seed: int, stream: int, images_B: Tensor) -> Tensor:
    """Keys (B,) int64 of the images' random numbers in one stream, from int64 image indices."""
    return mix64(images_B ^ mix64_int(mix64_int(seed) ^ stream))


def digests(ids_Bn: Tensor) -> Tensor:
    """Digest (B,) int64 of each row of int64 numbers, in their order."""
    positions_n = torch.arange(1, ids_Bn.shape[1] + 1, device=ids_Bn.device) * GOLDEN_GAMMA
    return mix64(mix64(ids_Bn + positions_n).sum(dim=1))


def uniforms(keys_B: Tensor, step: int | Tensor, count: int) -> Tensor:
    """Draw uniform fp64 numbers in [0, 1), (B, count), one per image and position of `step`.

    Steps (S, 1) int64 give the numbers of all, (S, B, count).
    """
    key_XB1 = mix64(keys_B ^ step).unsqueeze(-1)
    positions_n = torch.arange(1, count + 1, device=keys_B.device)
    bits_XBn = mix64(key_XB1 + positions_n * GOLDEN_GAMMA)
    return _shift_right(bits_XBn, 11).double() * 2.0**-53


def inverted(logits_BlV: Tensor, u_Bl: Tensor) -> Tensor:
    """Ids (B, l) int64 at which the cumulative distribution of softmax(logits) passes u; V where that is NaN."""
    cumulative_BlV = logits_BlV.double().softmax(dim=-1).cumsum(dim=-1)
    # The sum ends near 1, not at 1: scale u to it, and stay below it, so that the first token whose sum exceeds the
    # target exists and has a probability above zero.
    total_Bl1 = cumulative_BlV[..., -1:]
    # A NaN lies beyond every sum: searchsorted returns V.
    target_Bl1 = torch.minimum(u_Bl.unsqueeze(-1) * total_Bl1, total_Bl1.nextafter(torch.zeros_like(total_Bl1)))
    return torch.searchsorted(cumulative_BlV, target_Bl1, right=True).squeeze(-1)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift right of int64 (torch's >> copies the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 numbers, bit for bit that of unsigned ones."""
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def mix64_int(x: int) -> int:
    """`mix64` of x + 1, a Python integer taken modulo 2**64, as a signed 64-bit integer."""
    x = (x + 1) % 2**64
    x = (x ^ x >> 30) * MIX_1 % 2**64
    x = (x ^ x >> 27) * MIX_2 % 2**64
    x ^= x >> 31
    return x - 2**64 if x >= 2**63 else x
