"""Mask refinement of HMAR: its schedules, and the choice of the tokens to redraw.

A schedule has one entry per scale: the number of tokens settled by each pass, the next-scale pass first. (1, 3, 5) at
3 x 3 settles one token in the first pass; the 8 least confident tokens are masked and redrawn, then the 5 least
confident of these 8. An entry with a single number means no refinement.

Shapes   B images, l tokens of one scale, n positions, V codebook entries
Source   HMAR (arXiv:2506.04421); schedules of NVlabs/HMAR at 595a9df
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from types import MappingProxyType

import torch
from torch import Tensor

from arvbench.adapters.next_scale.transformer import PATCH_NUMS_256
from arvbench.adapters.tokenizers.tokenizer import Sides
from arvbench.errors import UnknownName, UserError

MaskSchedule = tuple[tuple[int, ...], ...]

NO_REFINEMENT = "none"
"""Name of the schedule with one pass per scale, for any scales."""

PATCH_NUMS_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
PATCH_NUMS_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)


def _refined(patch_nums: Sequence[int], *entries: tuple[int, ...]) -> MaskSchedule:
    """`entries` for the first scales, no refinement for the others."""
    return (*entries, *((pn * pn,) for pn in patch_nums[len(entries) :]))


_SAMPLING_256 = _refined(PATCH_NUMS_256, (1,), (1, 3), (1, 1, 2, 5))

MASK_SCHEDULES = MappingProxyType(
    {
        # config/sample/hmar-d*.yaml and config/evaluate/hmar-d*.yaml agree, at every depth.
        "sampling-256": _SAMPLING_256,
        "evaluation-256": _SAMPLING_256,
        # benchmark/inference.py has different schedules.
        "benchmark-256": _refined(PATCH_NUMS_256, (1,), (1, 3), (1, 3, 5)),
        "benchmark-512": _refined(PATCH_NUMS_512, (1,), (1, 3), (1, 1, 2, 5), (5, 11)),
        "benchmark-1024": _refined(PATCH_NUMS_1024, (1,), (1, 3), (1, 1, 2, 5), (3, 5, 8)),
        # The demo model and all official models begin with equal scales.
        "demo": _refined((1, 2, 3, 4, 6, 8), (1,), (1, 3), (1, 1, 2, 5)),
        "demo-fine": _refined((1, 2, 3, 4, 6, 8), (1,), (1, 3), (1, 3, 5), (5, 11), (12, 24)),
    }
)


def mask_schedule(schedule: str | MaskSchedule, sides: Sides) -> MaskSchedule:
    """Return the entries of `schedule` (a name or entries), one per scale of `sides`.

    Raises UnknownName for an unknown name, UserError for entries that do not fit the scales.
    """
    tokens = [h * w for h, w in sides]
    if schedule == NO_REFINEMENT:
        return tuple((count,) for count in tokens)
    if isinstance(schedule, str):
        if schedule not in MASK_SCHEDULES:
            raise UnknownName("mask schedule", schedule, (NO_REFINEMENT, *MASK_SCHEDULES))
        entries, title = MASK_SCHEDULES[schedule], f"mask schedule {schedule!r}"
    else:
        entries, title = schedule, "the mask schedule"
    scales = ", ".join(f"{h}x{w}" for h, w in sides)
    if len(entries) != len(sides):
        raise UserError(f"{title} has {len(entries)} entries, the model {len(sides)} scales ({scales}): one each")
    for number, (entry, count, (h, w)) in enumerate(zip(entries, tokens, sides, strict=True)):
        shown = f"{title}: entry {number} {list(entry)} for scale {h}x{w}"
        if any(part < 1 for part in entry):
            raise UserError(f"{shown} has a pass that settles no token: every number must be at least 1")
        if sum(entry) != count:
            raise UserError(f"{shown} adds up to {sum(entry)}, it must add up to the scale's {count} tokens")
    if len(entries[0]) > 1:
        raise UserError(f"{title} refines the first scale, before which there is nothing: entry 0 must be one number")
    return entries


def masked_counts(entry: Sequence[int]) -> list[int]:
    """Return the number of tokens masked by each refinement: all tokens not settled by earlier passes."""
    return [sum(entry) - settled for settled in accumulate(entry[:-1])]


def confidence(filtered_BlV: Tensor, tokens_Bl: Tensor) -> Tensor:
    """Return the probability (B, l) of each drawn token under the filtered logits."""
    return filtered_BlV.softmax(dim=-1).gather(-1, tokens_Bl.unsqueeze(-1)).squeeze(-1)


def least_confident(confidence_Bl: Tensor, among_Bn: Tensor | None, count: int) -> Tensor:
    """Return the positions (B, count) of the lowest confidences among `among` (None: all), lowest first.

    Ties go to the position that comes first in `among`; with top_k 1 that is the first in raster order.
    """
    if among_Bn is None:
        among_Bn = torch.arange(confidence_Bl.shape[1], device=confidence_Bl.device).expand_as(confidence_Bl)
    order_Bn = confidence_Bl.gather(1, among_Bn).argsort(dim=1, stable=True)
    return among_Bn.gather(1, order_Bn[:, :count])
