"""Attention of one pass to the cache in Triton; forward only, one launch, or two where the context is split.

A program computes a block of queries of one row and head over one part of the context. The last part has the new
tokens, whose keys it rotates from the projections and stores: the others read only what was stored before. Where rows
and heads are too few to fill the GPU, several programs share a context, and a second launch adds up their parts.

Shapes   R forward rows, l new tokens, H heads, D head channels, P rotation pairs, T tokens that the cache can hold,
         C = H * D, M queries and N keys of one block, S parts of the context
Accepts  fp32, bf16 and fp16, the cache in the dtype of the projections and the rotary table in fp32; even D up to 128;
         channels adjacent in memory, any other strides
Range    products in the operands' dtype with fp32 sums, rotation and softmax in fp32, result contiguous
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError
from arvbench.kernels.attention.triton import LOG2_E, attend, check_cache, check_operands, precision
from arvbench.kernels.interpreter import block_size
from arvbench.kernels.wavefront_attention.spec import MAX_HEAD_DIM

MULTIPROCESSORS = 132
"""Of an H100 or H200: fewer programs leave some idle."""
SHORTEST_PART = 128
"""Tokens of a context, below which another part costs more than it saves."""
MOST_PARTS = 8


@triton.jit
def _rotated(x_MD, cos_MP, sin_MP):
    even_MP, odd_MP = tl.split(tl.reshape(x_MD.to(tl.float32), (x_MD.shape[0], x_MD.shape[1] // 2, 2)))
    turned_MD = tl.interleave(even_MP * cos_MP - odd_MP * sin_MP, odd_MP * cos_MP + even_MP * sin_MP)
    return turned_MD.to(x_MD.dtype)


@triton.jit(do_not_specialize=["tokens", "capacity"])
def _wavefront_attention_kernel(
    qkv, rope, keys, values, filled, out, part_acc, part_stats, scale, tokens, capacity, heads,
    qkv_row, qkv_token, qkv_part, qkv_head, rope_token, keys_row, keys_head, keys_token,
    values_row, values_head, values_token,
    D: tl.constexpr, PARTS: tl.constexpr, EXACT: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # grid (R * H * blocks of queries * PARTS,); int64 because a cache of many rows passes 2**31 elements
    blocks = tl.cdiv(tokens, BLOCK_M)
    part = tl.program_id(0) % PARTS
    begin = tl.program_id(0) // PARTS % blocks * BLOCK_M
    of_head = tl.program_id(0) // PARTS // blocks
    row, head = (of_head // heads).to(tl.int64), (of_head % heads).to(tl.int64)
    m, n, d, p = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_D // 2)
    in_head, in_pairs = (d < D)[None, :], (p < D // 2)[None, :]
    # All strides are multiples of UNIT, which Triton sees by itself only of 16: heads of 100 channels load faster.
    qkv_token, qkv_part = tl.multiple_of(qkv_token, UNIT), tl.multiple_of(qkv_part, UNIT)
    keys_token, values_token = tl.multiple_of(keys_token, UNIT), tl.multiple_of(values_token, UNIT)
    new_q = qkv + tl.multiple_of(row * qkv_row + head * qkv_head, UNIT)
    old_k = keys + tl.multiple_of(row * keys_row + head * keys_head, UNIT)
    old_v = values + tl.multiple_of(row * values_row + head * values_head, UNIT)
    new_MD, rope_MP = m[:, None] * qkv_token + d[None, :], m[:, None] * rope_token + 2 * p[None, :]
    own = (begin + m < tokens)[:, None]
    rope_ptr = rope + begin * rope_token + rope_MP
    cos_MP = tl.load(rope_ptr, mask=own & in_pairs, other=0.0)
    sin_MP = tl.load(rope_ptr + 1, mask=own & in_pairs, other=0.0)
    q_ptr = new_q + begin.to(tl.int64) * qkv_token
    q_MD = _rotated(tl.load(q_ptr + new_MD, mask=own & in_head, other=0.0), cos_MP, sin_MP)

    acc_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    top_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    old = tl.minimum(tl.load(filled), capacity)
    # Parts are whole blocks; where the context is short the last ones have none.
    span = tl.cdiv(tl.cdiv(old, PARTS), BLOCK_N) * BLOCK_N
    first, last = part * span, tl.minimum((part + 1) * span, old)
    k_ptr, v_ptr = old_k + first.to(tl.int64) * keys_token, old_v + first.to(tl.int64) * values_token
    for start in range(first, last, BLOCK_N):
        # Slots that are not filled hold anything, NaN too: they are not read.
        live_N = start + n < last
        live = live_N[:, None] & in_head
        k_ND = tl.load(k_ptr + n[:, None] * keys_token + d[None, :], mask=live, other=0.0)
        v_ND = tl.load(v_ptr + n[:, None] * values_token + d[None, :], mask=live, other=0.0)
        score_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision=EXACT) * scale
        score_MN += tl.where(live_N, 0.0, float("-inf"))[None, :]
        acc_MD, top_M, sum_M = attend(score_MN, v_ND, acc_MD, top_M, sum_M, EXACT)
        k_ptr += BLOCK_N * keys_token
        v_ptr += BLOCK_N * values_token
    if part == PARTS - 1:
        for start in range(0, tokens, BLOCK_M):
            live_M = start + m < tokens
            live = live_M[:, None] & in_head
            rope_ptr = rope + start * rope_token + rope_MP
            cos_MP = tl.load(rope_ptr, mask=live_M[:, None] & in_pairs, other=0.0)
            sin_MP = tl.load(rope_ptr + 1, mask=live_M[:, None] & in_pairs, other=0.0)
            new_k = new_q + qkv_part + tl.cast(start, tl.int64) * qkv_token
            k_MD = _rotated(tl.load(new_k + new_MD, mask=live, other=0.0), cos_MP, sin_MP)
            v_MD = tl.load(new_k + qkv_part + new_MD, mask=live, other=0.0)
            score_MM = tl.dot(q_MD, tl.trans(k_MD), input_precision=EXACT) * scale
            score_MM += tl.where(live_M, 0.0, float("-inf"))[None, :]
            acc_MD, top_M, sum_M = attend(score_MM, v_MD, acc_MD, top_M, sum_M, EXACT)
            # The own tokens join the cache, those beyond its end do not.
            slot_M = old.to(tl.int64) + start + m
            fits = live & (slot_M < capacity)[:, None] & (start == begin)
            tl.store(old_k + slot_M[:, None] * keys_token + d[None, :], k_MD, mask=fits)
            tl.store(old_v + slot_M[:, None] * values_token + d[None, :], v_MD, mask=fits)

    if PARTS == 1:
        to_MD = (row * tokens + begin + m[:, None]) * (heads * D) + head * D + d[None, :]
        tl.store(out + to_MD, acc_MD / sum_M[:, None], mask=own & in_head)
    else:
        to_M = (of_head.to(tl.int64) * tokens + begin + m) * PARTS + part
        tl.store(part_acc + to_M[:, None] * D + d[None, :], acc_MD, mask=own & in_head)
        tl.store(part_stats + to_M * 2, top_M, mask=begin + m < tokens)
        tl.store(part_stats + to_M * 2 + 1, sum_M, mask=begin + m < tokens)


@triton.jit(do_not_specialize=["tokens"])
def _add_parts_kernel(
    part_acc, part_stats, out, tokens, heads, D: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # grid (R * H * l,)
    at = tl.program_id(0).to(tl.int64)
    s, d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    there = s < PARTS
    top_S = tl.load(part_stats + (at * PARTS + s) * 2, mask=there, other=float("-inf"))
    sum_S = tl.load(part_stats + (at * PARTS + s) * 2 + 1, mask=there, other=0.0)
    weight_S = tl.exp2(top_S - tl.max(top_S, 0))
    shown = there[:, None] & (d < D)[None, :]
    acc_SD = tl.load(part_acc + (at * PARTS + s[:, None]) * D + d[None, :], mask=shown, other=0.0)
    mean_D = tl.sum(acc_SD * weight_S[:, None], 0) / tl.sum(sum_S * weight_S, 0)
    row, head, token = at // tokens // heads, at // tokens % heads, at % tokens
    tl.store(out + (row * tokens + token) * (heads * D) + head * D + d, mean_D, mask=d < D)


def wavefront_attention(
    qkv_Rl3HD: Tensor, rope_lP2: Tensor, keys_RHTD: Tensor, values_RHTD: Tensor, filled_1: Tensor
) -> Tensor:
    """Return softmax(q k' / sqrt(D)) v of the new tokens, (R, l, C); no token is hidden from another.

    The channel pairs (2i, 2i + 1) of queries and keys are first rotated by the token's i-th cosine and sine; zeros in
    `rope` (learnt tokens) leave zero vectors. `filled_1` (int32, on the device) says how many tokens the cache already
    holds; the keys, rotated, and values of the new ones are written behind them, those beyond the cache's end are not
    written.

    Raises ContractError for operands that the kernel does not accept, or that need a gradient.
    """
    _check(qkv_Rl3HD, rope_lP2, keys_RHTD, values_RHTD, filled_1)
    R, tokens, _, H, D = qkv_Rl3HD.shape
    out_RlC = torch.empty((R, tokens, H * D), dtype=qkv_Rl3HD.dtype, device=qkv_Rl3HD.device)
    blocks = _blocks(tokens, keys_RHTD.shape[2], qkv_Rl3HD)
    programs = R * H * triton.cdiv(tokens, blocks["BLOCK_M"])
    parts = _parts(programs, keys_RHTD.shape[2])
    part_acc, part_stats = _scratch(out_RlC, (R * H * tokens, parts), D)
    strides = [*qkv_Rl3HD.stride()[:4], rope_lP2.stride(0), *keys_RHTD.stride()[:3], *values_RHTD.stride()[:3]]
    unit = math.gcd(16, *strides[:4], *strides[5:])
    with torch.cuda.device_of(qkv_Rl3HD):
        _wavefront_attention_kernel[(programs * parts,)](
            qkv_Rl3HD, rope_lP2, keys_RHTD, values_RHTD, filled_1, out_RlC, part_acc, part_stats,
            LOG2_E.value / math.sqrt(D), tokens, keys_RHTD.shape[2], H, *strides,
            D=D, PARTS=parts, EXACT=precision(qkv_Rl3HD.dtype), UNIT=unit, **blocks,
        )  # fmt: skip
        if parts > 1:
            _add_parts_kernel[(R * H * tokens,)](
                part_acc, part_stats, out_RlC, tokens, H,
                D=D, PARTS=parts, BLOCK_S=triton.next_power_of_2(parts), BLOCK_D=blocks["BLOCK_D"], num_warps=1,
            )  # fmt: skip
    return out_RlC


def _blocks(tokens: int, capacity: int, like: Tensor) -> dict[str, int]:
    """Choose block sizes and warps by the number of new tokens, head width and dtype."""
    block_d = max(16, triton.next_power_of_2(like.shape[-1]))
    wide = block_d > 64
    block_m = min(max(16, triton.next_power_of_2(tokens)), 16 if wide else 32)
    block_n = block_size(32, capacity) if wide or like.dtype == torch.float32 else 64
    return {
        "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_D": block_d,
        "num_warps": 8 if wide else 4, "num_stages": 2 if like.dtype == torch.float32 else 3,
    }  # fmt: skip


def _parts(programs: int, capacity: int) -> int:
    """Choose the parts of a context of up to `capacity` tokens: as many as fill the GPU, none too short."""
    wanted = -(-MULTIPROCESSORS // programs)
    return max(1, min(wanted, capacity // SHORTEST_PART, MOST_PARTS))


def _scratch(out_RlC: Tensor, size: tuple[int, int], D: int) -> tuple[Tensor | None, Tensor | None]:
    if size[1] == 1:
        return None, None
    part_acc = torch.empty((*size, D), dtype=torch.float32, device=out_RlC.device)
    return part_acc, torch.empty((*size, 2), dtype=torch.float32, device=out_RlC.device)


def _check(qkv_Rl3HD: Tensor, rope_lP2: Tensor, keys_RHTD: Tensor, values_RHTD: Tensor, filled_1: Tensor) -> None:
    check_cache(qkv_Rl3HD, keys_RHTD, values_RHTD, filled_1)
    tokens, D = qkv_Rl3HD.shape[1], qkv_Rl3HD.shape[-1]
    if D > MAX_HEAD_DIM or D % 2:
        raise ContractError(f"the Triton kernel takes heads of at most {MAX_HEAD_DIM} channels, even, got {D}")
    if rope_lP2.shape != (tokens, D // 2, 2) or rope_lP2.dtype != torch.float32 or not rope_lP2[0].is_contiguous():
        raise ContractError(f"rope must be ({tokens}, {D // 2}, 2) float32, got {tuple(rope_lP2.shape)}")
    check_operands(qkv_Rl3HD, keys_RHTD, values_RHTD, scalars=(rope_lP2, filled_1))
