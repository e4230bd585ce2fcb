"""Attention of one scale to the cache in Triton; forward only, one launch.

A program computes a block of queries of one row and head. It reads earlier keys from the cache, as they were stored:
divided by their length. New keys it reads from the projections, because the programs that store them may not have run;
each program stores the tokens of its own block.

Shapes   R forward rows, l new tokens, H heads, D head channels, T tokens that the cache can hold, C = H * D,
         M queries and N keys of one block
Accepts  fp32, bf16 and fp16, the cache in the dtype of the projections; D up to 64; channels adjacent in memory, any
         other strides
Range    products in the operands' dtype with fp32 sums, lengths and softmax in fp32, result contiguous
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError
from arvbench.kernels.attention.triton import LOG2_E, attend, check_cache, check_operands, check_projections, precision
from arvbench.kernels.interpreter import block_size
from arvbench.kernels.scale_attention.reference import MAX_LOG_SCALE
from arvbench.kernels.scale_attention.spec import MAX_HEAD_DIM
from arvbench.kernels.target import capability

MULTIPROCESSORS = 132
"""Of an H100 or H200: fewer programs leave some idle."""


@triton.jit
def _inverse_length(x_MD):
    # PyTorch's normalize divides by max(length, 1e-12).
    return 1.0 / tl.maximum(tl.sqrt(tl.sum(x_MD * x_MD, 1)), 1e-12)


@triton.jit(do_not_specialize=["tokens", "capacity"])
def _scale_attention_kernel(
    qkv, log_scale, keys, values, filled, out, softmax_scale, max_log_scale, tokens, capacity, heads,
    qkv_row, qkv_token, qkv_part, qkv_head, keys_row, keys_head, keys_token, values_row, values_head, values_token,
    D: tl.constexpr, NORM: tl.constexpr, CACHE: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # grid (R * H * blocks of queries,), blocks first: neighbours share keys. int64 because a cache of 128 rows at
    # 1024 px passes 2**31 elements.
    blocks = tl.cdiv(tokens, BLOCK_M)
    program = tl.program_id(0)
    row = (program // blocks // heads).to(tl.int64)
    head = (program // blocks % heads).to(tl.int64)
    begin = program % blocks * BLOCK_M
    m, n, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    in_head = (d < D)[None, :]
    own = (begin + m < tokens)[:, None] & in_head
    new_q = qkv + row * qkv_row + head * qkv_head
    new_k, new_v = new_q + qkv_part, new_q + 2 * qkv_part
    own_MD = begin.to(tl.int64) * qkv_token + m[:, None] * qkv_token + d[None, :]
    if CACHE:
        old = tl.minimum(tl.load(filled), capacity)
        old_k, old_v = keys + row * keys_row + head * keys_head, values + row * values_row + head * values_head
        # Keys and values of the own tokens join the cache, those beyond its end do not.
        slot_M = old.to(tl.int64) + begin + m
        fits = own & (slot_M < capacity)[:, None]
        k_MD = tl.load(new_k + own_MD, mask=own, other=0.0).to(tl.float32)
        if NORM:
            k_MD *= _inverse_length(k_MD)[:, None]
        tl.store(old_k + slot_M[:, None] * keys_token + d[None, :], k_MD, mask=fits)
        v_MD = tl.load(new_v + own_MD, mask=own, other=0.0)
        tl.store(old_v + slot_M[:, None] * values_token + d[None, :], v_MD, mask=fits)
    q_MD = tl.load(new_q + own_MD, mask=own, other=0.0)
    scale_M = tl.full((BLOCK_M,), softmax_scale, tl.float32)
    if NORM:
        # Scores are divided by the lengths, not queries and new keys, which would be rounded once more.
        log_scale_ = tl.minimum(tl.load(log_scale + head).to(tl.float32), max_log_scale)
        scale_M = scale_M * tl.exp(log_scale_) * _inverse_length(q_MD.to(tl.float32))
    scale_M = scale_M * LOG2_E

    acc_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    top_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    if CACHE:
        k_ptr, v_ptr = old_k, old_v
        old_k_ND, old_v_ND = n[:, None] * keys_token + d[None, :], n[:, None] * values_token + d[None, :]
        for start in range(0, old, BLOCK_N):
            # Slots that are not filled hold anything, NaN too: they are not read.
            live = (start + n < old)[:, None] & in_head
            k_ND = tl.load(k_ptr + old_k_ND, mask=live, other=0.0)
            v_ND = tl.load(v_ptr + old_v_ND, mask=live, other=0.0)
            score_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision=EXACT) * scale_M[:, None]
            score_MN += tl.where(start + n < old, 0.0, float("-inf"))[None, :]
            acc_MD, top_M, sum_M = attend(score_MN, v_ND, acc_MD, top_M, sum_M, EXACT)
            k_ptr += BLOCK_N * keys_token
            v_ptr += BLOCK_N * values_token
    new_ND = n[:, None] * qkv_token + d[None, :]
    k_ptr, v_ptr = new_k, new_v
    for start in range(0, tokens, BLOCK_N):
        live = (start + n < tokens)[:, None] & in_head
        k_ND = tl.load(k_ptr + new_ND, mask=live, other=0.0)
        v_ND = tl.load(v_ptr + new_ND, mask=live, other=0.0)
        score_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision=EXACT) * scale_M[:, None]
        if NORM:
            score_MN *= _inverse_length(k_ND.to(tl.float32))[None, :]
        score_MN += tl.where(start + n < tokens, 0.0, float("-inf"))[None, :]
        acc_MD, top_M, sum_M = attend(score_MN, v_ND, acc_MD, top_M, sum_M, EXACT)
        k_ptr += BLOCK_N * qkv_token
        v_ptr += BLOCK_N * qkv_token

    out_MD = (row * tokens + begin + m[:, None]) * (heads * D) + head * D + d[None, :]
    tl.store(out + out_MD, acc_MD / sum_M[:, None], mask=own)


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
    keys, divided, and values of the new ones are written behind them, those beyond the cache's end are not written.
    Without a cache the new tokens see each other.

    Raises ContractError for operands that the kernel does not accept, or that need a gradient.
    """
    _check(qkv_Rl3HD, log_scale_H, keys_RHTD, values_RHTD, filled_1)
    rows, tokens, _, heads, D = qkv_Rl3HD.shape
    out_RlC = torch.empty((rows, tokens, heads * D), dtype=qkv_Rl3HD.dtype, device=qkv_Rl3HD.device)
    row, token, part, head, _ = qkv_Rl3HD.stride()
    slots, strides = 0, [0] * 6
    if keys_RHTD is not None and values_RHTD is not None:
        slots, strides = keys_RHTD.shape[2], [*keys_RHTD.stride()[:3], *values_RHTD.stride()[:3]]
    launch = _launch(rows * heads, tokens, max(tokens, slots), qkv_Rl3HD)
    with torch.cuda.device_of(qkv_Rl3HD):
        _scale_attention_kernel[(rows * heads * triton.cdiv(tokens, launch["BLOCK_M"]),)](
            qkv_Rl3HD, log_scale_H, keys_RHTD, values_RHTD, filled_1, out_RlC, softmax_scale, MAX_LOG_SCALE,
            tokens, slots, heads, row, token, part, head, *strides,
            D=D, NORM=log_scale_H is not None, CACHE=keys_RHTD is not None, EXACT=precision(qkv_Rl3HD.dtype), **launch,
        )  # fmt: skip
    return out_RlC


def _launch(rows_and_heads: int, tokens: int, context: int, like: Tensor) -> dict[str, int]:
    """Choose blocks and warps: the largest block of queries that the tokens fill and that keeps the GPU busy."""
    block_d = max(16, triton.next_power_of_2(like.shape[-1]))
    block_m = min(max(16, triton.next_power_of_2(tokens)), 128)
    if like.dtype == torch.float32:  # twice the registers per element, and three products
        block_m, block_n = block_size(min(block_m, 32), tokens), block_size(32, context)
        return {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_D": block_d, "num_warps": 4, "num_stages": 2}
    if block_m == 128 and rows_and_heads * triton.cdiv(tokens, 128) < 2 * MULTIPROCESSORS:
        block_m = 64
    # Before sm_90 operands of a product come from registers, which 64 x 64 blocks of four warps exceed.
    block_n = 32 if block_m == 64 and capability(like.device) < 90 else 64
    return {
        "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_D": block_d,
        "num_warps": 8 if block_m == 128 else 4, "num_stages": 3,
    }  # fmt: skip


def _check(
    qkv_Rl3HD: Tensor,
    log_scale_H: Tensor | None,
    keys_RHTD: Tensor | None,
    values_RHTD: Tensor | None,
    filled_1: Tensor | None,
) -> None:
    if (filled_1 is None) != (keys_RHTD is None) or (keys_RHTD is None) != (values_RHTD is None):
        raise ContractError("a cache is keys, values and the number of tokens that they hold, or none of these")
    check_projections(qkv_Rl3HD)
    H, D = qkv_Rl3HD.shape[3:]
    if D > MAX_HEAD_DIM:
        raise ContractError(f"the Triton kernel takes heads of at most {MAX_HEAD_DIM} channels, got {D}")
    if log_scale_H is not None and (log_scale_H.numel() != H or not log_scale_H.is_contiguous()):
        raise ContractError(f"the scale must be {H} adjacent numbers, got {tuple(log_scale_H.shape)}")
    if keys_RHTD is not None and values_RHTD is not None and filled_1 is not None:
        check_cache(qkv_Rl3HD, keys_RHTD, values_RHTD, filled_1)
    check_operands(qkv_Rl3HD, keys_RHTD, values_RHTD, scalars=(log_scale_H, filled_1))
