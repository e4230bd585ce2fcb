"""Attention of one pass to the cache in plain PyTorch: the definition.

Shapes   R forward rows, l new tokens, H heads, D head channels, P = D / 2 rotation pairs, T tokens that the cache can
         hold, C = H * D
Source   2-D RoPE of LlamaGen (arXiv:2406.06525) section 3.2; NAR and PAR rotate alike
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wavefront_attention(
    qkv_Rl3HD: Tensor, rope_lP2: Tensor, keys_RHTD: Tensor, values_RHTD: Tensor, filled_1: Tensor
) -> Tensor:
    """Return softmax(q k' / sqrt(D)) v of the new tokens, (R, l, C); no token is hidden from another.

    The channel pairs (2i, 2i + 1) of queries and keys are first rotated by the token's i-th cosine and sine; zeros in
    `rope` (learnt tokens) leave zero vectors. `filled_1` (int32, on the device) says how many tokens the cache already
    holds; the keys, rotated, and values of the new ones are written behind them.
    """
    rows, tokens, _, heads, head_dim = qkv_Rl3HD.shape
    qkv_3RHlD = qkv_Rl3HD.permute(2, 0, 3, 1, 4)
    (q_RHlD, k_RHlD), v_RHlD = _rotate(qkv_3RHlD[:2], rope_lP2), qkv_3RHlD[2]
    start = int(filled_1)
    end = start + tokens
    keys_RHTD[:, :, start:end] = k_RHlD
    values_RHTD[:, :, start:end] = v_RHlD
    out_RHlD = F.scaled_dot_product_attention(q_RHlD, keys_RHTD[:, :, :end], values_RHTD[:, :, :end])
    return out_RHlD.transpose(1, 2).reshape(rows, tokens, heads * head_dim)


def _rotate(x_2RHlD: Tensor, rope_lP2: Tensor) -> Tensor:
    compute = torch.promote_types(x_2RHlD.dtype, torch.float32)
    even, odd = x_2RHlD.to(compute).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope_lP2.unbind(-1)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return turned.flatten(-2).to(x_2RHlD.dtype)
