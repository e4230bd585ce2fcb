"""Attention of one scale to the cache in plain PyTorch: the definition.

Shapes   R forward rows, l new tokens, H heads, D head channels, T tokens that the cache can hold, C = H * D
Source   VAR (arXiv:2404.02905) section 3.3: queries and keys of length 1 under a learnt scale per head
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

MAX_LOG_SCALE = math.log(100)


def scale_attention(
    qkv_Rl3HD: Tensor,
    log_scale_H: Tensor | None,
    keys_RHTD: Tensor | None,
    values_RHTD: Tensor | None,
    filled_1: Tensor | None,
    softmax_scale: float,
) -> Tensor:
    """Return softmax(q k' * softmax_scale) v of the new tokens, (R, l, C); no token is hidden from another.

    With `log_scale_H` queries and keys are first divided by their length, and queries multiplied by
    exp(min(log_scale, log 100)). `filled_1` (int32, on the device) says how many tokens the cache already holds; the
    keys, divided, and values of the new ones are written behind them. Without a cache the new tokens see each other.
    """
    rows, tokens, _, heads, head_dim = qkv_Rl3HD.shape
    q_RHlD, k_RHlD, v_RHlD = qkv_Rl3HD.permute(2, 0, 3, 1, 4).unbind(0)
    if log_scale_H is not None:
        q_RHlD = F.normalize(q_RHlD, dim=-1) * log_scale_H.view(1, heads, 1, 1).clamp_max(MAX_LOG_SCALE).exp()
        k_RHlD = F.normalize(k_RHlD, dim=-1)
    k_RHTD, v_RHTD = k_RHlD, v_RHlD
    if keys_RHTD is not None and values_RHTD is not None and filled_1 is not None:
        start = int(filled_1)
        end = start + tokens
        keys_RHTD[:, :, start:end] = k_RHlD
        values_RHTD[:, :, start:end] = v_RHlD
        k_RHTD, v_RHTD = keys_RHTD[:, :, :end], values_RHTD[:, :, :end]
    out_RHlD = F.scaled_dot_product_attention(q_RHlD, k_RHTD, v_RHTD, scale=softmax_scale)
    return out_RHlD.transpose(1, 2).reshape(rows, tokens, heads * head_dim)
