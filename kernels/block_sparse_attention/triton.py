"""Attention between the tokens of all scales in Triton, forward and backward, without a mask in memory.

Every token knows the first and the last token of its scale (`bounds`); a block of tokens visits the blocks between the
least of the first and the greatest of the last, and compares only where the blocks' scales differ. The backward pass
has no atomic sums, so its results are the same in every run: one launch sums over queries, another over keys.

Shapes   R rows, H heads, L tokens of all scales, D head channels; M queries and N keys of one block
Accepts  fp32, bf16 and fp16, all operands in one dtype; D up to 64; channels adjacent in memory, any other strides
Range    products in the operands' dtype with fp32 sums, softmax in fp32; results in memory are (R, L, H, D)
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError
from arvbench.kernels.attention.triton import LOG2_E, attend, check_operands, precision
from arvbench.kernels.block_sparse_attention.reference import Scales
from arvbench.kernels.block_sparse_attention.spec import MAX_HEAD_DIM
from arvbench.kernels.interpreter import block_size
from arvbench.kernels.target import capability

# Of hidden keys. Finite: a block in which a query sees nothing yet adds garbage, which the first key that it sees
# multiplies by exp2(-1e30) = 0.
HIDDEN = tl.constexpr(-1e30)


@triton.jit
def _load(base, start, stride, last, ROWS: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr):
    """Load tokens start..start + ROWS of one row and head, zeros from `last` on."""
    row, col = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    at = base + tl.cast(start, tl.int64) * stride + row[:, None] * stride + col[None, :]
    return tl.load(at, mask=(start + row < last)[:, None] & (col < D)[None, :], other=0.0)


@triton.jit
def _store(base, start, stride, last, x, D: tl.constexpr):
    row, col = tl.arange(0, x.shape[0]), tl.arange(0, x.shape[1])
    at = base + tl.cast(start, tl.int64) * stride + row[:, None] * stride + col[None, :]
    tl.store(at, x, mask=(start + row < last)[:, None] & (col < D)[None, :])


@triton.jit
def _ranges(first, last, L, CAUSAL: tl.constexpr, TO_QUERIES: tl.constexpr, BLOCK: tl.constexpr):
    """Return begin <= clear <= unclear <= end: blocks to visit, of which those in clear..unclear are seen whole.

    `first` and `last` are the bounds of the scales of one block of tokens, which visits keys, or (TO_QUERIES) the
    queries that see it.
    """
    begin, clear = tl.min(first, 0), tl.max(first, 0)
    end, unclear = tl.max(last, 0), tl.min(last, 0)
    if CAUSAL:
        if TO_QUERIES:
            end, unclear = L, L
        else:
            begin, clear = 0, 0
    begin = begin // BLOCK * BLOCK
    clear = tl.cdiv(clear, BLOCK) * BLOCK
    unclear = unclear // BLOCK * BLOCK
    whole = unclear > clear
    # Without a block that is seen whole, all blocks are left to the last range.
    return begin, tl.where(whole, clear, begin), tl.where(whole, unclear, begin), end


@triton.jit
def _sees(first, last, other, L, CAUSAL: tl.constexpr, TO_QUERIES: tl.constexpr):
    """Return whether tokens with scale bounds `first` and `last` (a, 1) see, or are seen by, tokens `other` (1, b)."""
    if CAUSAL:
        if TO_QUERIES:
            return (other >= first) & (other < L)
        return other < last
    return (other >= first) & (other < last)


@triton.jit
def _forward_range(
    acc_MD, top_M, sum_M, q_MD, k, v, k_token, v_token, first_M, last_M, begin, end, L, scale,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    for start in range(begin, end, BLOCK_N):
        k_ND = _load(k, start, k_token, L, BLOCK_N, q_MD.shape[1], D)
        v_ND = _load(v, start, v_token, L, BLOCK_N, q_MD.shape[1], D)
        score_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision=EXACT) * scale
        if MASKED:
            key_N = start + tl.arange(0, BLOCK_N)
            seen = _sees(first_M[:, None], last_M[:, None], key_N[None, :], L, CAUSAL, False)
            score_MN = tl.where(seen, score_MN, HIDDEN)
        acc_MD, top_M, sum_M = attend(score_MN, v_ND, acc_MD, top_M, sum_M, EXACT)
    return acc_MD, top_M, sum_M


@triton.jit
def _forward_kernel(
    q, k, v, bounds, out, lse, scale, L, heads,
    q_row, q_head, q_token, k_row, k_head, k_token, v_row, v_head, v_token,
    CAUSAL: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # grid (R * H * blocks of queries,), the longest contexts first; int64 because R * H * L * D passes 2**31
    blocks = tl.cdiv(L, BLOCK_M)
    begin_m = (blocks - 1 - tl.program_id(0) % blocks) * BLOCK_M
    of_head = (tl.program_id(0) // blocks).to(tl.int64)
    row, head = of_head // heads, of_head % heads
    k += row * k_row + head * k_head
    v += row * v_row + head * v_head
    m = begin_m + tl.arange(0, BLOCK_M)
    q_MD = _load(q + row * q_row + head * q_head, begin_m, q_token, L, BLOCK_M, BLOCK_D, D)
    # Rows behind the last token take its bounds.
    first_M = tl.load(bounds + tl.minimum(m, L - 1))
    last_M = tl.load(bounds + L + tl.minimum(m, L - 1))
    begin, clear, unclear, end = _ranges(first_M, last_M, L, CAUSAL, False, BLOCK_N)
    acc_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    top_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    if not CAUSAL:
        acc_MD, top_M, sum_M = _forward_range(
            acc_MD, top_M, sum_M, q_MD, k, v, k_token, v_token, first_M, last_M, begin, clear, L, scale,
            True, CAUSAL, D, EXACT, BLOCK_N,
        )  # fmt: skip
    acc_MD, top_M, sum_M = _forward_range(
        acc_MD, top_M, sum_M, q_MD, k, v, k_token, v_token, first_M, last_M, clear, unclear, L, scale,
        False, CAUSAL, D, EXACT, BLOCK_N,
    )  # fmt: skip
    acc_MD, top_M, sum_M = _forward_range(
        acc_MD, top_M, sum_M, q_MD, k, v, k_token, v_token, first_M, last_M, unclear, end, L, scale,
        True, CAUSAL, D, EXACT, BLOCK_N,
    )  # fmt: skip
    _store(out + row * L * heads * D + head * D, begin_m, heads * D, L, acc_MD / sum_M[:, None], D)
    tl.store(lse + of_head * L + m, top_M + tl.log2(sum_M), mask=m < L)


@triton.jit
def _delta_kernel(
    out, grad, delta, L, heads, grad_row, grad_head, grad_token,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # grid (R * H * blocks of queries,): the sum of out * grad over channels, which every score's gradient contains
    blocks = tl.cdiv(L, BLOCK_M)
    begin = tl.program_id(0) % blocks * BLOCK_M
    of_head = (tl.program_id(0) // blocks).to(tl.int64)
    row, head = of_head // heads, of_head % heads
    out_MD = _load(out + row * L * heads * D + head * D, begin, heads * D, L, BLOCK_M, BLOCK_D, D)
    grad_MD = _load(grad + row * grad_row + head * grad_head, begin, grad_token, L, BLOCK_M, BLOCK_D, D)
    m = begin + tl.arange(0, BLOCK_M)
    tl.store(delta + of_head * L + m, tl.sum(out_MD.to(tl.float32) * grad_MD.to(tl.float32), 1), mask=m < L)


@triton.jit
def _keys_range(
    grad_k_ND, grad_v_ND, k_ND, v_ND, q, grad, q_token, grad_token, lse, delta, first_N, last_N, begin, end, L, scale,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    for start in range(begin, end, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        q_MD = _load(q, start, q_token, L, BLOCK_M, k_ND.shape[1], D)
        lse_M = tl.load(lse + m, mask=m < L, other=0.0)
        weight_NM = tl.exp2(tl.dot(k_ND, tl.trans(q_MD), input_precision=EXACT) * scale - lse_M[None, :])
        if MASKED:
            seen = _sees(first_N[:, None], last_N[:, None], m[None, :], L, CAUSAL, True)
            weight_NM = tl.where(seen, weight_NM, 0.0)
        grad_MD = _load(grad, start, grad_token, L, BLOCK_M, k_ND.shape[1], D)
        grad_v_ND = tl.dot(weight_NM.to(grad_MD.dtype), grad_MD, grad_v_ND, input_precision=EXACT)
        delta_M = tl.load(delta + m, mask=m < L, other=0.0)
        of_weight_NM = tl.dot(v_ND, tl.trans(grad_MD), input_precision=EXACT)
        of_score_NM = weight_NM * (of_weight_NM - delta_M[None, :])
        grad_k_ND = tl.dot(of_score_NM.to(q_MD.dtype), q_MD, grad_k_ND, input_precision=EXACT)
    return grad_k_ND, grad_v_ND


@triton.jit
def _keys_kernel(
    q, k, v, grad, bounds, lse, delta, grad_k, grad_v, scale, softmax_scale, L, heads,
    q_row, q_head, q_token, k_row, k_head, k_token, v_row, v_head, v_token, grad_row, grad_head, grad_token,
    CAUSAL: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # grid (R * H * blocks of keys,); early keys are seen by most queries and come first
    blocks = tl.cdiv(L, BLOCK_N)
    begin_n = tl.program_id(0) % blocks * BLOCK_N
    of_head = (tl.program_id(0) // blocks).to(tl.int64)
    row, head = of_head // heads, of_head % heads
    k_ND = _load(k + row * k_row + head * k_head, begin_n, k_token, L, BLOCK_N, BLOCK_D, D)
    v_ND = _load(v + row * v_row + head * v_head, begin_n, v_token, L, BLOCK_N, BLOCK_D, D)
    q += row * q_row + head * q_head
    grad += row * grad_row + head * grad_head
    lse += of_head * L
    delta += of_head * L
    n = tl.minimum(begin_n + tl.arange(0, BLOCK_N), L - 1)
    first_N, last_N = tl.load(bounds + n), tl.load(bounds + L + n)
    begin, clear, unclear, end = _ranges(first_N, last_N, L, CAUSAL, True, BLOCK_M)
    grad_k_ND = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    grad_v_ND = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    grad_k_ND, grad_v_ND = _keys_range(
        grad_k_ND, grad_v_ND, k_ND, v_ND, q, grad, q_token, grad_token, lse, delta, first_N, last_N, begin, clear,
        L, scale, True, CAUSAL, D, EXACT, BLOCK_M,
    )  # fmt: skip
    grad_k_ND, grad_v_ND = _keys_range(
        grad_k_ND, grad_v_ND, k_ND, v_ND, q, grad, q_token, grad_token, lse, delta, first_N, last_N, clear, unclear,
        L, scale, False, CAUSAL, D, EXACT, BLOCK_M,
    )  # fmt: skip
    grad_k_ND, grad_v_ND = _keys_range(
        grad_k_ND, grad_v_ND, k_ND, v_ND, q, grad, q_token, grad_token, lse, delta, first_N, last_N, unclear, end,
        L, scale, True, CAUSAL, D, EXACT, BLOCK_M,
    )  # fmt: skip
    at = row * L * heads * D + head * D
    _store(grad_k + at, begin_n, heads * D, L, grad_k_ND * softmax_scale, D)
    _store(grad_v + at, begin_n, heads * D, L, grad_v_ND, D)


@triton.jit
def _queries_range(
    grad_q_MD, q_MD, grad_MD, k, v, k_token, v_token, lse_M, delta_M, first_M, last_M, begin, end, L, scale,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    for start in range(begin, end, BLOCK_N):
        k_ND = _load(k, start, k_token, L, BLOCK_N, q_MD.shape[1], D)
        v_ND = _load(v, start, v_token, L, BLOCK_N, q_MD.shape[1], D)
        weight_MN = tl.exp2(tl.dot(q_MD, tl.trans(k_ND), input_precision=EXACT) * scale - lse_M[:, None])
        if MASKED:
            key_N = start + tl.arange(0, BLOCK_N)
            seen = _sees(first_M[:, None], last_M[:, None], key_N[None, :], L, CAUSAL, False)
            weight_MN = tl.where(seen, weight_MN, 0.0)
        of_weight_MN = tl.dot(grad_MD, tl.trans(v_ND), input_precision=EXACT)
        of_score_MN = weight_MN * (of_weight_MN - delta_M[:, None])
        grad_q_MD = tl.dot(of_score_MN.to(k_ND.dtype), k_ND, grad_q_MD, input_precision=EXACT)
    return grad_q_MD


@triton.jit
def _queries_kernel(
    q, k, v, grad, bounds, lse, delta, grad_q, scale, softmax_scale, L, heads,
    q_row, q_head, q_token, k_row, k_head, k_token, v_row, v_head, v_token, grad_row, grad_head, grad_token,
    CAUSAL: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # grid (R * H * blocks of queries,), the longest contexts first
    blocks = tl.cdiv(L, BLOCK_M)
    begin_m = (blocks - 1 - tl.program_id(0) % blocks) * BLOCK_M
    of_head = (tl.program_id(0) // blocks).to(tl.int64)
    row, head = of_head // heads, of_head % heads
    k += row * k_row + head * k_head
    v += row * v_row + head * v_head
    q_MD = _load(q + row * q_row + head * q_head, begin_m, q_token, L, BLOCK_M, BLOCK_D, D)
    grad_MD = _load(grad + row * grad_row + head * grad_head, begin_m, grad_token, L, BLOCK_M, BLOCK_D, D)
    m = tl.minimum(begin_m + tl.arange(0, BLOCK_M), L - 1)
    lse_M, delta_M = tl.load(lse + of_head * L + m), tl.load(delta + of_head * L + m)
    first_M, last_M = tl.load(bounds + m), tl.load(bounds + L + m)
    begin, clear, unclear, end = _ranges(first_M, last_M, L, CAUSAL, False, BLOCK_N)
    grad_q_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if not CAUSAL:
        grad_q_MD = _queries_range(
            grad_q_MD, q_MD, grad_MD, k, v, k_token, v_token, lse_M, delta_M, first_M, last_M, begin, clear,
            L, scale, True, CAUSAL, D, EXACT, BLOCK_N,
        )  # fmt: skip
    grad_q_MD = _queries_range(
        grad_q_MD, q_MD, grad_MD, k, v, k_token, v_token, lse_M, delta_M, first_M, last_M, clear, unclear,
        L, scale, False, CAUSAL, D, EXACT, BLOCK_N,
    )  # fmt: skip
    grad_q_MD = _queries_range(
        grad_q_MD, q_MD, grad_MD, k, v, k_token, v_token, lse_M, delta_M, first_M, last_M, unclear, end,
        L, scale, True, CAUSAL, D, EXACT, BLOCK_N,
    )  # fmt: skip
    _store(grad_q + row * L * heads * D + head * D, begin_m, heads * D, L, grad_q_MD * softmax_scale, D)


def block_sparse_attention(
    q_RHLD: Tensor, k_RHLD: Tensor, v_RHLD: Tensor, scales: Scales, softmax_scale: float
) -> Tensor:
    """Return softmax(q k' * softmax_scale) v over the tokens that each token sees, (R, H, L, D), with a gradient.

    Raises ContractError for operands that the kernel does not accept.
    """
    _check(q_RHLD, k_RHLD, v_RHLD, scales=scales)
    out_RHLD: Tensor = _Attention.apply(q_RHLD, k_RHLD, v_RHLD, scales, softmax_scale)
    return out_RHLD


def block_sparse_attention_backward(
    grad_RHLD: Tensor, q_RHLD: Tensor, k_RHLD: Tensor, v_RHLD: Tensor, scales: Scales, softmax_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, given that of the result.

    Raises ContractError for operands that the kernel does not accept.
    """
    _check(q_RHLD, k_RHLD, v_RHLD, grad_RHLD, scales=scales)
    qkv = (q_RHLD, k_RHLD, v_RHLD)
    return _backward(grad_RHLD, qkv, _forward(qkv, scales, softmax_scale), scales, softmax_scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scales: Scales, softmax_scale: float) -> Tensor:
        out_RHLD, lse_RHL = _forward((q, k, v), scales, softmax_scale)
        ctx.save_for_backward(q, k, v, out_RHLD, lse_RHL)
        ctx.scales, ctx.softmax_scale = scales, softmax_scale
        return out_RHLD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_RHLD: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        # Autograd may hand in a sum's gradient, one number expanded to all channels.
        grad_RHLD = grad_RHLD if grad_RHLD.stride(-1) == 1 else grad_RHLD.contiguous()
        return (*_backward(grad_RHLD, (q, k, v), (out, lse), ctx.scales, ctx.softmax_scale), None, None)


QKV = tuple[Tensor, Tensor, Tensor]


def _forward(qkv: QKV, scales: Scales, softmax_scale: float) -> tuple[Tensor, Tensor]:
    """Return the result (R, H, L, D) and the logarithm to base 2 of every query's sum of weights, (R, H, L)."""
    q_RHLD = qkv[0]
    R, H, L, D = q_RHLD.shape
    out_RLHD = torch.empty((R, L, H, D), dtype=q_RHLD.dtype, device=q_RHLD.device)
    lse_RHL = torch.empty((R, H, L), dtype=torch.float32, device=q_RHLD.device)
    blocks = _blocks(q_RHLD, backward=False)
    with torch.cuda.device_of(q_RHLD):
        _forward_kernel[(R * H * triton.cdiv(L, blocks["BLOCK_M"]),)](
            *qkv, _bounds(scales.offsets, q_RHLD.device), out_RLHD, lse_RHL, softmax_scale * LOG2_E.value, L, H,
            *(stride for operand in qkv for stride in operand.stride()[:3]),
            CAUSAL=scales.causal, D=D, EXACT=precision(q_RHLD.dtype), **blocks,
        )  # fmt: skip
    return out_RLHD.transpose(1, 2), lse_RHL


def _backward(grad_RHLD: Tensor, qkv: QKV, result: tuple[Tensor, Tensor], scales: Scales, softmax_scale: float) -> QKV:
    q_RHLD, (out_RHLD, lse_RHL) = qkv[0], result
    R, H, L, D = q_RHLD.shape
    grads = [torch.empty((R, L, H, D), dtype=q_RHLD.dtype, device=q_RHLD.device) for _ in qkv]
    delta_RHL = torch.empty_like(lse_RHL)
    blocks = _blocks(q_RHLD, backward=True)
    strides = [stride for operand in (*qkv, grad_RHLD) for stride in operand.stride()[:3]]
    same = {"CAUSAL": scales.causal, "D": D, "EXACT": precision(q_RHLD.dtype), **blocks}
    operands = (*qkv, grad_RHLD, _bounds(scales.offsets, q_RHLD.device), lse_RHL, delta_RHL)
    numbers = (softmax_scale * LOG2_E.value, softmax_scale, L, H, *strides)
    with torch.cuda.device_of(q_RHLD):
        _delta_kernel[(R * H * triton.cdiv(L, 32),)](
            out_RHLD, grad_RHLD, delta_RHL, L, H, *strides[-3:], D=D, BLOCK_M=32, BLOCK_D=blocks["BLOCK_D"]
        )
        _keys_kernel[(R * H * triton.cdiv(L, blocks["BLOCK_N"]),)](*operands, grads[1], grads[2], *numbers, **same)
        _queries_kernel[(R * H * triton.cdiv(L, blocks["BLOCK_M"]),)](*operands, grads[0], *numbers, **same)
    return grads[0].transpose(1, 2), grads[1].transpose(1, 2), grads[2].transpose(1, 2)


@lru_cache(maxsize=32)
def _bounds(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """(2, L) int32: the first token of every token's scale, and the one behind its last."""
    first = [start for start, end in pairwise(offsets) for _ in range(start, end)]
    last = [end for start, end in pairwise(offsets) for _ in range(start, end)]
    return torch.tensor([first, last], dtype=torch.int32, device=device)


def _blocks(like: Tensor, *, backward: bool) -> dict[str, int]:
    """Choose block sizes and warps by dtype and generation of GPU."""
    block_d = max(16, triton.next_power_of_2(like.shape[-1]))
    if like.dtype == torch.float32:
        size = block_size(32, like.shape[2])
        return {
            "BLOCK_M": size, "BLOCK_N": size, "BLOCK_D": block_d,
            "num_warps": 8 if backward else 4, "num_stages": 2,
        }  # fmt: skip
    if backward:
        block = 64 if capability(like.device) >= 90 else 32
        return {"BLOCK_M": block, "BLOCK_N": block, "BLOCK_D": block_d, "num_warps": 4, "num_stages": 2}
    return {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_D": block_d, "num_warps": 8, "num_stages": 3}


def _check(q_RHLD: Tensor, *others: Tensor, scales: Scales) -> None:
    if q_RHLD.ndim != 4 or 0 in q_RHLD.shape or q_RHLD.shape[-1] > MAX_HEAD_DIM:
        raise ContractError(f"queries must be (R, H, L, up to {MAX_HEAD_DIM}), got {tuple(q_RHLD.shape)}")
    for operand in others:
        if operand.shape != q_RHLD.shape or operand.dtype != q_RHLD.dtype:
            raise ContractError(
                f"all operands must be {q_RHLD.dtype} {tuple(q_RHLD.shape)}, one is {operand.dtype} "
                f"{tuple(operand.shape)}"
            )
    if scales.offsets[:1] != (0,) or scales.offsets[-1] != q_RHLD.shape[2] or min(scales.tokens, default=0) < 1:
        raise ContractError(f"scales {scales.offsets} do not divide {q_RHLD.shape[2]} tokens")
    with torch.no_grad():
        check_operands(q_RHLD, *others)
