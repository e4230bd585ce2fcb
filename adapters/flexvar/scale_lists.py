"""Lists of scales: notation, official lists, and random lists for training.

A list has any number of scales, in the order of generation. Lists usually go from coarse to fine, but the official
code also accepts repeated and smaller scales, and decodes the last one. A scale is the side of a square token map, or
(height, width). Text notation: "1_2_4_8", "1_2_3x4_6x8", or the name of an official list such as "10-steps".

Source   FlexVAR (arXiv:2502.20313) section 4; scripts and training of jiaosiyu1999/FlexVAR at 04462cb
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from pydantic import StrictInt

from arvbench.adapters.tokenizers.tokenizer import Sides
from arvbench.errors import UnknownName, UserError

Scales = str | tuple[StrictInt | tuple[StrictInt, StrictInt], ...]

MAX_SIDE = 256
"""Largest side of a token map: 4096 px at 16 pixels per token."""

OFFICIAL_SCALES: dict[str, tuple[int, ...]] = {
    "6-steps": (1, 2, 4, 6, 10, 16),
    "8-steps": (1, 2, 3, 5, 7, 10, 13, 16),
    "9-steps": (1, 2, 3, 4, 5, 7, 10, 13, 16),
    "10-steps": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    "11-steps": (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 16),
    "12-steps": (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16),
    "13-steps": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16),
    "14-steps": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16),
    "512px": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 23, 32),
}
"""Lists of the official evaluation, for 16 pixels per token: 256 px in 6 to 14 steps, and 512 px (with cfg 3.0)."""

_AS_TEXT = re.compile(r"[0-9]{1,9}(x[0-9]{1,9})?(_[0-9]{1,9}(x[0-9]{1,9})?)*")


def parse_scales(scales: Scales, *, first: tuple[int, int]) -> Sides:
    """Return height and width of every scale. Raises UserError for an invalid list.

    `first` is the first scale of the model, fixed because it has its own embedding.
    """
    if isinstance(scales, str):
        scales = OFFICIAL_SCALES.get(scales) or _read(scales)
    sides = tuple(_side(scale) for scale in scales)
    if len(sides) < 2:
        raise UserError(f"scales need at least two steps, the first being {_text(first)}; got {len(sides)}")
    if bad := [side for side in sides if min(side) < 1]:
        raise UserError(f"scale {_text(bad[0])} has no tokens: sides are 1 or more")
    if bad := [side for side in sides if max(side) > MAX_SIDE]:
        raise UserError(f"scale {_text(bad[0])} is too large: sides are at most {MAX_SIDE}")
    if sides[0] != first:
        raise UserError(f"scales must start with {_text(first)}, where the model starts; got {_text(sides[0])}")
    return sides


def _side(scale: object) -> tuple[int, int]:
    pair = (scale, scale) if type(scale) is int else scale
    # Exact type int: True and 2.0 compare equal to integers but are not valid sides.
    if not isinstance(pair, (tuple, list)) or [type(n) for n in pair] != [int, int]:
        raise UserError(f"scale {scale!r} is not a size: give whole numbers, as sides or as (height, width)")
    return pair[0], pair[1]


def _read(text: str) -> tuple[int | tuple[int, int], ...]:
    if not _AS_TEXT.fullmatch(text):
        if re.match(r"[0-9]+([x_]|$)", text):
            raise UserError(f"scales {text!r}: write sides as 1_2_4_8, or heights and widths as 1_2x3_4x6")
        raise UnknownName("list of scales", text, OFFICIAL_SCALES)
    sides = [[int(n) for n in part.split("x")] for part in text.split("_")]
    return tuple((side[0], side[-1]) for side in sides)


def _text(side: tuple[int, int]) -> str:
    return str(side[0]) if side[0] == side[1] else f"{side[0]}x{side[1]}"


_CONFIGURED_SHARE = 0.05
"""Fraction of training steps with the configured list."""
_DROP_FROM = (0.9, 0.95, 0.98, 0.99)
"""Thresholds of a uniform number; each one exceeded drops one more scale."""


def random_scales(patch_nums: tuple[int, ...], generator: torch.Generator) -> tuple[int, ...]:
    """Draw the scales of one training step: the first two configured ones, some in between, and the last one.

    As in the official training, 5 % of the steps use the configured list. The others use a list of equal length with
    inner scales drawn from all sides; a tenth of them drop one to four scales, and a list with more tokens than the
    configured one is shortened. The official code draws five sides below 11 and two above, and may shorten a list at
    its end; here all sides are equally likely, and every list ends in the last scale.
    """
    ends, last = patch_nums[:2], patch_nums[-1]
    if len(patch_nums) <= 3 or torch.rand((), generator=generator).item() < _CONFIGURED_SHARE:
        return patch_nums
    between = torch.arange(ends[1] + 1, last)
    shuffled: list[int] = between[torch.randperm(len(between), generator=generator)].tolist()
    u = torch.rand((), generator=generator).item()
    chosen = shuffled[sum(u > bound for bound in _DROP_FROM) : len(patch_nums) - 3]
    room = _tokens(patch_nums) - _tokens((*ends, last))
    while _tokens(chosen) > room:
        chosen.pop()
    return (*ends, *sorted(chosen), last)


def _tokens(patch_nums: Sequence[int]) -> int:
    return sum(pn * pn for pn in patch_nums)
