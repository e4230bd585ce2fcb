"""Guided sampling in Triton: one program reads the logits of one token once, and decides without sorting them.

Thresholds of top-k and top-p are found by bisection over the logits' bits, which stay in registers. The cumulative
distribution is made of 64-bit integers, whose sums do not depend on their order: first one sum per tile of the
vocabulary, then the tile that holds the token is read again and scanned.

Shapes   B images, R forward rows (B conditional ones, then, with guidance, B unconditional ones), l tokens of one step,
         V codebook entries, K channels of the table
Accepts  logits and table in fp32, bf16 or fp16, entries and channels adjacent in memory, any other strides; V up to
         `rule.MOST_ENTRIES`
Range    guidance and temperature in fp32 without fused multiply-adds, so that logits have the bits of the reference's;
         the nucleus in fp32, weights of the draw in fp64, rounded to multiples of 2**-46 of the largest
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError
from arvbench.kernels import counter
from arvbench.kernels.guided_sample.rule import Counter, Draw, SampleRule, unsupported

_GOLDEN_GAMMA = tl.constexpr(counter.GOLDEN_GAMMA)
_MIX_1 = tl.constexpr(counter.MIX_1)
_MIX_2 = tl.constexpr(counter.MIX_2)
_ONE = tl.constexpr(2**46)
"""Weight of the most likely token: V of them stay below 2**63."""
_NONE, _EXTRAPOLATE, _INTERPOLATE = (tl.constexpr(i) for i in range(3))
_GREEDY, _UNIFORM, _COUNTER = (tl.constexpr(i) for i in range(3))
_NO_NUCLEUS, _BELOW, _REACHED = (tl.constexpr(i) for i in range(3))


@triton.jit
def _mix64(x):
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def _guided_logits(row, col, V, to_uncond, strength, temperature, MIX: tl.constexpr, TEMPERED: tl.constexpr):
    live = col < V
    x = tl.load(row + col, mask=live, other=0.0).to(tl.float32)
    if MIX != _NONE:
        t = tl.load(strength)
        uncond = tl.load(row + to_uncond + col, mask=live, other=0.0).to(tl.float32)
        if MIX == _EXTRAPOLATE:
            x = (1 + t).to(tl.float32) * x - t.to(tl.float32) * uncond
        else:
            x = uncond + (x - uncond) * t.to(tl.float32)
    if TEMPERED:
        x = tl.div_rn(x, temperature)
    # Adding 0 turns -0 into 0, whose bits then compare as the numbers do.
    return tl.where(live, x, float("-inf")) + 0.0


@triton.jit
def _ordered(x):
    """Integers in the order of the numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)


@triton.jit
def _least_of_top_k(key, most, top_k):
    """A key that top_k entries reach, and no smaller entry."""
    low, high = tl.min(key), most + 1
    while low + 1 < high:
        # Half the sum of two int32, which itself may overflow.
        middle = (low & high) + ((low ^ high) >> 1)
        reach = tl.sum((key >= middle).to(tl.int32))
        low = tl.where(reach >= top_k, middle, low)
        high = tl.where(reach == top_k, middle + 1, tl.where(reach > top_k, high, middle))
    return low


@triton.jit
def _least_of_nucleus(key, weight, most, least, top_p, NUCLEUS: tl.constexpr):
    """The smallest key of the nucleus, and how many of the entries that have it are in."""
    border = top_p * tl.sum(weight)
    low, high = least - 1, most
    while low + 1 < high:
        middle = (low & high) + ((low ^ high) >> 1)
        above = tl.sum(tl.where(key > middle, weight, 0.0))
        inside = above < border if NUCLEUS == _BELOW else above <= border
        low = tl.where(inside, low, middle)
        high = tl.where(inside, middle, high)
    left = border - tl.sum(tl.where(key > high, weight, 0.0))
    each = tl.max(tl.where(key == high, weight, 0.0))
    room = tl.ceil(left / each) if NUCLEUS == _BELOW else tl.floor(left / each) + 1
    return high, tl.maximum(tl.minimum(room, 1e6), 1.0).to(tl.int32)


@triton.jit
def _tied_range(tied, col, room, V, NUCLEUS: tl.constexpr):
    """First and last index between which `room` of the tied entries lie: the last ones (below) or the first."""
    first, last = 0 * room, V - 1 + 0 * room
    if tl.sum(tied.to(tl.int32)) > room:
        low, high = 0 * room, V + 0 * room
        # With fewer than `room` at or after high (below), or up to low (reached).
        while low + 1 < high:
            middle = (low + high) // 2
            if NUCLEUS == _BELOW:
                enough = tl.sum((tied & (col >= middle)).to(tl.int32)) >= room
                low, high = tl.where(enough, middle, low), tl.where(enough, high, middle)
            else:
                enough = tl.sum((tied & (col < middle)).to(tl.int32)) >= room
                low, high = tl.where(enough, low, middle), tl.where(enough, middle, high)
        if NUCLEUS == _BELOW:
            first = low
        else:
            last = high - 1
    return first, last


@triton.jit
def _weights(x, col, top, least, first, last):
    """exp(x - top) of the survivors in multiples of 1 / _ONE; fp64 keeps the sums those of the reference."""
    key = _ordered(x)
    kept = (key > least) | ((key == least) & (col >= first) & (col <= last))
    share = tl.where(kept, tl.exp(x.to(tl.float64) - top.to(tl.float64)), 0.0)
    return (share * _ONE).to(tl.int64)


@triton.jit
def _survivors(x, col, most, top, V, top_k, top_p, TOP_K: tl.constexpr, NUCLEUS: tl.constexpr):
    """Bounds of the tokens that may be drawn: keys above `least`, and those equal to it from index first to last."""
    key = _ordered(x)
    least, first, last = tl.min(key), 0 * most, V - 1 + 0 * most
    if TOP_K:
        least = _least_of_top_k(key, most, top_k)
    if NUCLEUS != _NO_NUCLEUS:
        weight = tl.where(key >= least, tl.exp(x - top), 0.0)
        least, room = _least_of_nucleus(key, weight, most, least, top_p, NUCLEUS)
        first, last = _tied_range(key == least, col, room, V, NUCLEUS)
    return least, first, last


@triton.jit
def _random(uniform, keys, image, token, uniform_row, uniform_token, step, DRAW: tl.constexpr):
    if DRAW == _UNIFORM:
        u = tl.load(uniform + image * uniform_row + token * uniform_token)
    else:
        bits = _mix64(_mix64(tl.load(keys + image) ^ step) + (token + 1) * _GOLDEN_GAMMA)
        u = ((bits >> 11) & 0x1FFFFFFFFFFFFF).to(tl.float64) * 1.1102230246251565e-16  # 2**-53
    return u


@triton.jit(do_not_specialize=["tokens", "images", "step", "top_k"])
def _guided_sample_kernel(
    logits, strength, uniform, keys, table, ids, failed, probability, codes,
    tokens, images, V, K, row_stride, token_stride, uniform_row, uniform_token, table_stride,
    step, temperature, top_k, top_p,
    MIX: tl.constexpr, TEMPERED: tl.constexpr, TOP_K: tl.constexpr, NUCLEUS: tl.constexpr, DRAW: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, K_BLOCK: tl.constexpr,
):  # fmt: skip
    # grid (B * l,): one program per token; int64 because R * l * V passes 2**31 at batch 512
    program = tl.program_id(0).to(tl.int64)
    image, token = program // tokens, program % tokens
    row, to_uncond = logits + image * row_stride + token * token_stride, images * row_stride
    col = tl.arange(0, BLOCK)
    x = _guided_logits(row, col, V, to_uncond, strength, temperature, MIX, TEMPERED)
    top = tl.max(x)
    lost = (tl.max((x != x).to(tl.int32)) > 0) | (top == float("inf")) | (top == float("-inf"))
    least, first, last = _survivors(x, col, _ordered(top), top, V, top_k, top_p, TOP_K, NUCLEUS)

    # The logits are read again tile by tile, from L2: 64-bit weights of all of them would not fit into registers.
    tiles = tl.arange(0, BLOCK // TILE)
    sum_T = tl.zeros((BLOCK // TILE,), tl.int64)
    for tile in range(BLOCK // TILE):
        col_t = tile * TILE + tl.arange(0, TILE)
        x_t = _guided_logits(row, col_t, V, to_uncond, strength, temperature, MIX, TEMPERED)
        sum_T = tl.where(tiles == tile, tl.sum(_weights(x_t, col_t, top, least, first, last)), sum_T)
    total = tl.sum(sum_T)
    if DRAW == _GREEDY:
        drawn, own = tl.argmax(x, 0), total * 0 + _ONE
    else:
        u = _random(uniform, keys, image, token, uniform_row, uniform_token, step, DRAW)
        target = tl.minimum((u * total.to(tl.float64)).to(tl.int64), total - 1)
        own_tile = tl.minimum(tl.sum((tl.cumsum(sum_T, 0) <= target).to(tl.int32)), BLOCK // TILE - 1)
        before = tl.sum(tl.where(tiles < own_tile, sum_T, 0))
        col_t = own_tile * TILE + tl.arange(0, TILE)
        x_t = _guided_logits(row, col_t, V, to_uncond, strength, temperature, MIX, TEMPERED)
        weight_t = _weights(x_t, col_t, top, least, first, last)
        drawn = own_tile * TILE + tl.sum((before + tl.cumsum(weight_t, 0) <= target).to(tl.int32))
        own = tl.sum(tl.where(col_t == drawn, weight_t, 0))

    drawn = tl.where(lost, V - 1, tl.minimum(drawn, V - 1)).to(tl.int64)
    tl.store(ids + program, drawn)
    tl.store(failed + program, lost)
    tl.store(probability + program, tl.where(lost, 0.0, own.to(tl.float64) / total.to(tl.float64)))
    for start in range(0, K, K_BLOCK):
        channel = start + tl.arange(0, K_BLOCK)
        code = tl.load(table + drawn * table_stride + channel, mask=channel < K, other=0.0)
        tl.store(codes + program * K + channel, code, mask=channel < K)


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

    Raises ContractError for operands that the kernel does not accept.
    """
    _check(logits_RlV, strength, noise, rule, table_VK)
    rows, tokens, V = logits_RlV.shape
    images = rows if strength is None else rows // 2
    uniform_Bl, (keys_B, step) = (None, noise) if isinstance(noise, Counter) else (noise, (None, 0))
    K = 0 if table_VK is None else table_VK.shape[1]
    shape, device = (images, tokens), logits_RlV.device
    draw = Draw(
        torch.empty(shape, dtype=torch.int64, device=device),
        torch.empty(shape, dtype=torch.bool, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty((*shape, K), dtype=logits_RlV.dtype if table_VK is None else table_VK.dtype, device=device),
    )
    with torch.cuda.device_of(logits_RlV):
        _guided_sample_kernel[(images * tokens,)](
            logits_RlV, strength, uniform_Bl, keys_B, table_VK, *draw,
            tokens, images, V, K, *logits_RlV.stride()[:2],
            *((0, 0) if uniform_Bl is None else uniform_Bl.stride()),
            0 if table_VK is None else table_VK.stride(0), step, rule.temperature, rule.top_k, rule.top_p,
            **_constants(rule, strength, noise), **_blocks(V, K),
            # A fused multiply-add would round guided logits in another way than the reference.
            enable_fp_fusion=False,
        )  # fmt: skip
    return draw


def _constants(rule: SampleRule, strength: Tensor | None, noise: Tensor | Counter | None) -> dict[str, int]:
    mixed = _EXTRAPOLATE if rule.mix == "extrapolate" else _INTERPOLATE
    nucleus = _BELOW if rule.nucleus == "below" else _REACHED
    draw = _GREEDY if noise is None else _COUNTER if isinstance(noise, Counter) else _UNIFORM
    return {
        "MIX": (_NONE if strength is None else mixed).value,
        "TEMPERED": rule.temperature != 1,
        "TOP_K": rule.top_k > 0,
        "NUCLEUS": (_NO_NUCLEUS if rule.top_p == 1 else nucleus).value,
        "DRAW": draw.value,
    }


def _blocks(V: int, K: int) -> dict[str, int]:
    # 16 logits per thread in the thresholds (32 in the largest block), 2 in the tiles, whose weights have 64 bits.
    block = triton.next_power_of_2(V)
    warps = min(max(block // 512, 1), 16)
    return {
        "BLOCK": block,
        "TILE": min(block, 64 * warps),
        "K_BLOCK": min(triton.next_power_of_2(max(K, 1)), 1024),
        "num_warps": warps,
    }


def _check(
    logits_RlV: Tensor,
    strength: Tensor | None,
    noise: Tensor | Counter | None,
    rule: SampleRule,
    table_VK: Tensor | None,
) -> None:
    if logits_RlV.ndim != 3 or logits_RlV.numel() == 0:
        raise ContractError(f"logits must be (rows, tokens, entries), none of them 0, got {tuple(logits_RlV.shape)}")
    if reason := unsupported(logits_RlV, strength, noise, rule, table_VK):
        raise ContractError(reason)
    rows, tokens, V = logits_RlV.shape
    if rule.top_k > V:
        raise ContractError(f"top_k {rule.top_k} is larger than the {V} entries")
    if strength is not None and (rows % 2 or strength.ndim != 0 or strength.dtype != torch.float64):
        raise ContractError(
            f"guidance needs an even number of rows and a 0-dimensional strength in float64, got {rows} rows and "
            f"{strength.dtype} {tuple(strength.shape)}"
        )
    images = rows if strength is None else rows // 2
    if isinstance(noise, Counter):
        if noise.keys_B.shape != (images,) or noise.keys_B.dtype != torch.int64 or not noise.keys_B.is_contiguous():
            raise ContractError(f"keys must be ({images},) int64, got {noise.keys_B.dtype} {tuple(noise.keys_B.shape)}")
    elif noise is not None and (noise.shape != (images, tokens) or noise.dtype != torch.float64):
        raise ContractError(
            f"uniform numbers must be ({images}, {tokens}) float64, got {noise.dtype} {tuple(noise.shape)}"
        )
    if table_VK is not None and (table_VK.ndim != 2 or len(table_VK) != V):
        raise ContractError(f"the table must have {V} rows, got {tuple(table_VK.shape)}")
    everything = (strength, noise.keys_B if isinstance(noise, Counter) else noise, table_VK)
    if any(operand is not None and operand.device != logits_RlV.device for operand in everything):
        raise ContractError(f"all operands must be on {logits_RlV.device}")
