"""From the tokens of one scale to the input of the next in Triton: three kernels, the map in fp32 between them.

Shapes   B images, l = ph * pw drawn tokens, V codebook entries, C code channels, h w sides of the map (those of the
         last scale), qh qw sides of the next scale
Accepts  fp32, bf16 and fp16 in any mixture; 16, 32 or 64 channels; any strides of `f_hat`, others contiguous
Range    fp32; products of fp32 operands in three TF32 passes, which keep fp32's accuracy, of 16-bit ones in one
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError
from arvbench.kernels.next_scale_input.plan import Blend, ScalePlan, unsupported

PIXELS = 32
"""Pixels or tokens of one program."""


@triton.jit
def _cubic(tap: tl.constexpr, t):
    """Weight of tap 0..3 at distance t in 0..1 behind tap 1: cubic convolution with a = -0.75, as PyTorch's."""
    if tap == 0:
        weight = ((-0.75 * (t + 1) + 3.75) * (t + 1) - 6.0) * (t + 1) + 3.0
    elif tap == 1:
        weight = (1.25 * t - 2.25) * t * t + 1
    elif tap == 2:
        weight = (1.25 * (1 - t) - 2.25) * (1 - t) * (1 - t) + 1
    else:
        weight = ((-0.75 * (2 - t) + 3.75) * (2 - t) - 6.0) * (2 - t) + 3.0
    return weight


@triton.jit
def _source(at, inside, outside):
    """Place of pixel `at` of `outside` among `inside` tokens: tap 1, and the distance behind it. Exact in integers."""
    # 2 * outside * ((at + 0.5) * inside / outside - 0.5), moved by one token so that division rounds down
    number = (2 * at + 1) * inside + outside
    return number // (2 * outside) - 1, (number % (2 * outside)).to(tl.float32) / (2 * outside)


@triton.jit
def _enlarge_kernel(ids, codebook, enlarged, V, ph, pw, h, w, C: tl.constexpr, PIXELS: tl.constexpr):
    # grid (B, ceil(h * w / PIXELS)); int64 because B * h * w * C passes 2**31 at 1024 px and batch 16,384
    image, pixel = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel, live = tl.arange(0, C), pixel < h * w
    row, t_row = _source(pixel // w, ph, h)
    column, t_column = _source(pixel % w, pw, w)
    out = tl.zeros((PIXELS, C), tl.float32)
    for i in tl.static_range(4):
        token_row = tl.minimum(tl.maximum(row + i - 1, 0), ph - 1)
        line = tl.zeros((PIXELS, C), tl.float32)
        for j in tl.static_range(4):
            token = token_row * pw + tl.minimum(tl.maximum(column + j - 1, 0), pw - 1)
            code = tl.load(ids + image * ph * pw + token, mask=live, other=0)
            code = tl.minimum(tl.maximum(code, 0), V - 1)
            vector = tl.load(codebook + code[:, None] * C + channel[None, :]).to(tl.float32)
            line += _cubic(j, t_column)[:, None] * vector
        out += _cubic(i, t_row)[:, None] * line
    tl.store(enlarged + (image * h * w + pixel[:, None]) * C + channel[None, :], out, mask=live[:, None])


@triton.jit
def _blend_kernel(
    enlarged, weight, bias, f_hat, ratio, h, w, f_image, f_channel, f_row, f_column,
    C: tl.constexpr, PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # grid (B, ceil(h * w / PIXELS))
    image, pixel = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel, live = tl.arange(0, C), pixel < h * w
    row, column = pixel // w, pixel % w
    enlarged += image * h * w * C
    blended = tl.zeros((PIXELS, C), tl.float32) + tl.load(bias + channel).to(tl.float32)[None, :]
    for tap in range(9):
        y, x = row + tap // 3 - 1, column + tap % 3 - 1
        inside = live & (y >= 0) & (y < h) & (x >= 0) & (x < w)
        near = tl.load(enlarged + (y * w + x)[:, None] * C + channel[None, :], mask=inside[:, None], other=0.0)
        taps = tl.load(weight + (channel[None, :] * C + channel[:, None]) * 9 + tap).to(tl.float32)
        blended += tl.dot(near, taps, input_precision=PRECISION)
    own = tl.load(enlarged + pixel[:, None] * C + channel[None, :], mask=live[:, None], other=0.0)
    at = image * f_image + channel[None, :] * f_channel + (row * f_row + column * f_column)[:, None]
    before = tl.load(f_hat + at, mask=live[:, None], other=0.0).to(tl.float32)
    tl.store(f_hat + at, before + (own * (1 - ratio) + blended * ratio), mask=live[:, None])


@triton.jit
def _average_kernel(
    f_hat, out, h, w, qh, qw, f_image, f_channel, f_row, f_column,
    C: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    # grid (B, ceil(qh * qw / TOKENS))
    image, token = tl.program_id(0).to(tl.int64), tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    channel, live = tl.arange(0, C), token < qh * qw
    top, left = (token // qw) * h // qh, (token % qw) * w // qw
    # Areas of neighbours overlap where the sides do not divide.
    bottom, right = ((token // qw + 1) * h + qh - 1) // qh, ((token % qw + 1) * w + qw - 1) // qw
    total = tl.zeros((C, TOKENS), tl.float32)
    for i in range((h + qh - 1) // qh + 1):
        for j in range((w + qw - 1) // qw + 1):
            y, x = top + i, left + j
            inside = (live & (y < bottom) & (x < right))[None, :]
            at = image * f_image + channel[:, None] * f_channel + (y * f_row + x * f_column)[None, :]
            total += tl.load(f_hat + at, mask=inside, other=0.0).to(tl.float32)
    mean = total / ((bottom - top) * (right - left))[None, :]
    tl.store(out + (image * qh * qw + token[None, :]) * C + channel[:, None], mean, mask=live[None, :])


def next_scale_input(ids_Bl: Tensor, f_hat_BChw: Tensor, codebook_VC: Tensor, phi: Blend, plan: ScalePlan) -> Tensor:
    """Add the codes of one scale to `f_hat`, in place; return it averaged down to the next scale, (B, qh * qw, C).

    After the last scale the result has no tokens. Raises ContractError for operands that the kernels do not accept, or
    that need a gradient.
    """
    _check(ids_Bl, f_hat_BChw, codebook_VC, phi, plan)
    images, C, h, w = f_hat_BChw.shape
    qh, qw = plan.next_side or (0, 0)
    device, strides = f_hat_BChw.device, f_hat_BChw.stride()
    enlarged_BPC = torch.empty((images, h * w, C), dtype=torch.float32, device=device)
    out_BqC = torch.empty((images, qh * qw, C), dtype=f_hat_BChw.dtype, device=device)
    tiles = triton.cdiv(h * w, PIXELS)
    precision = "tf32x3" if codebook_VC.dtype == torch.float32 else "tf32"
    with torch.cuda.device_of(f_hat_BChw):
        _enlarge_kernel[(images, tiles)](
            ids_Bl.contiguous(), codebook_VC, enlarged_BPC, len(codebook_VC), *plan.side, h, w, C=C, PIXELS=PIXELS
        )
        _blend_kernel[(images, tiles)](
            enlarged_BPC, phi.weight_CC33, phi.bias_C, f_hat_BChw, phi.ratio, h, w, *strides,
            C=C, PIXELS=PIXELS, PRECISION=precision,
        )  # fmt: skip
        if qh * qw:
            _average_kernel[(images, triton.cdiv(qh * qw, PIXELS))](
                f_hat_BChw, out_BqC, h, w, qh, qw, *strides, C=C, TOKENS=PIXELS
            )
    return out_BqC


def _check(ids_Bl: Tensor, f_hat_BChw: Tensor, codebook_VC: Tensor, phi: Blend, plan: ScalePlan) -> None:
    if f_hat_BChw.ndim != 4 or f_hat_BChw.numel() == 0:
        raise ContractError(f"f_hat must be (B, C, h, w), none of them 0, got {tuple(f_hat_BChw.shape)}")
    images, C, h, w = f_hat_BChw.shape
    if ids_Bl.dtype not in (torch.int64, torch.int32) or ids_Bl.shape != (images, plan.side[0] * plan.side[1]):
        sides = "x".join(map(str, plan.side))
        raise ContractError(f"ids must be integers ({images}, {sides}), got {ids_Bl.dtype} {tuple(ids_Bl.shape)}")
    if plan.next_side is None and plan.side != (h, w):
        raise ContractError(f"the last scale must have the sides of f_hat, ({h}, {w}), got {plan.side}")
    if plan.next_side is not None and min(plan.next_side) < 1:
        raise ContractError(f"sides of the next scale must be 1 or more, got {plan.next_side}")
    expected = (("codebook", codebook_VC, (len(codebook_VC), C)), ("weight", phi.weight_CC33, (C, C, 3, 3)))
    for name, operand, shape in (*expected, ("bias", phi.bias_C, (C,))):
        if operand.shape != shape or not operand.is_contiguous():
            raise ContractError(f"{name} must be {shape} and contiguous, got {tuple(operand.shape)}")
    if reason := unsupported(ids_Bl, f_hat_BChw, codebook_VC, phi, plan):
        raise ContractError(reason)
    for operand in (ids_Bl, f_hat_BChw, codebook_VC, phi.weight_CC33, phi.bias_C):
        if operand.device != f_hat_BChw.device:
            raise ContractError(f"all operands must be on {f_hat_BChw.device}, one is on {operand.device}")
        if torch.is_grad_enabled() and operand.requires_grad:
            raise ContractError("the Triton kernels have no backward pass: use backend 'reference' to train")
