"""Guided sampling in plain PyTorch: the definition.

Shapes   B images, R forward rows (B conditional ones, then, with guidance, B unconditional ones), l tokens of one step,
         V codebook entries, K channels of the table
Range    logits natural-log; arithmetic in at least fp32, the cumulative distribution in fp64
Source   VAR (arXiv:2404.02905) and LlamaGen (arXiv:2406.06525), whose operations `arvbench.adapters` has in this order
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.kernels.counter import inverted, uniforms
from arvbench.kernels.guided_sample.rule import Counter, Draw, SampleRule


def guided_sample(
    logits_RlV: Tensor,
    strength: Tensor | None,
    noise: Tensor | Counter | None,
    rule: SampleRule,
    table_VK: Tensor | None = None,
) -> Draw:
    """Draw a token per image and position.

    strength   scalar of guidance (0-dimensional fp64, on the device of the logits); None: every row is an image
    noise      uniform numbers (B, l) fp64 in [0, 1), a counter, or None, which takes the first most likely token
    table_VK   rows to return for the drawn tokens: code vectors, or embeddings
    """
    compute = torch.promote_types(logits_RlV.dtype, torch.float32)
    filtered_BlV = _filtered(_guided(logits_RlV.to(compute), strength, rule) / rule.temperature, rule)
    entries = filtered_BlV.shape[-1]
    softmax_BlV = filtered_BlV.softmax(dim=-1)
    failed_Bl = softmax_BlV[..., 0].isnan()
    if noise is None:
        ids_Bl = filtered_BlV.argmax(dim=-1)
    else:
        u_Bl = uniforms(*noise, count=filtered_BlV.shape[1]) if isinstance(noise, Counter) else noise
        ids_Bl = inverted(filtered_BlV, u_Bl)
    ids_Bl = ids_Bl.masked_fill(failed_Bl, entries - 1)
    probability_Bl = softmax_BlV.gather(-1, ids_Bl.unsqueeze(-1)).squeeze(-1).masked_fill(failed_Bl, 0)
    codes_BlK = logits_RlV.new_empty((*ids_Bl.shape, 0)) if table_VK is None else F.embedding(ids_Bl, table_VK)
    return Draw(ids_Bl, failed_Bl, probability_Bl, codes_BlK)


def _guided(logits_RlV: Tensor, strength: Tensor | None, rule: SampleRule) -> Tensor:
    if strength is None:
        return logits_RlV
    cond_BlV, uncond_BlV = logits_RlV.chunk(2)
    if rule.mix == "interpolate":
        return uncond_BlV + (cond_BlV - uncond_BlV) * strength
    return (1 + strength) * cond_BlV - strength * uncond_BlV


def _filtered(logits_BlV: Tensor, rule: SampleRule) -> Tensor:
    """Set tokens outside top-k, then outside the nucleus of the rest, to -inf."""
    if rule.top_k:
        kth_Bl1 = logits_BlV.topk(rule.top_k, dim=-1).values[..., -1:]
        logits_BlV = logits_BlV.masked_fill(logits_BlV < kth_Bl1, -torch.inf)
    if rule.top_p == 1:
        return logits_BlV
    reached = rule.nucleus == "reached"
    sorted_BlV, order_BlV = logits_BlV.sort(dim=-1, descending=reached, stable=True)
    cumulative_BlV = sorted_BlV.softmax(dim=-1).cumsum(dim=-1)
    if reached:
        drop_BlV = F.pad(cumulative_BlV[..., :-1] > rule.top_p, (1, 0), value=False)
    else:
        drop_BlV = cumulative_BlV <= 1 - rule.top_p
        drop_BlV[..., -1] = False
    return logits_BlV.masked_fill(drop_BlV.scatter(-1, order_BlV, drop_BlV), -torch.inf)
