"""Adaptive LayerNorm in Triton; forward only.

Shapes   R forward rows, l tokens, C channels; the modulation has R rows or 1, and one token
Accepts  fp32, bf16 and fp16 in any mixture, channels adjacent in memory, any other strides (the models hand in slices
         of a (R, 1, 6, C) tensor)
Range    arithmetic in fp32, result contiguous in x's dtype
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# The number of tokens changes with every step of a sampler and only divides addresses: specialising on it would compile
# equally fast code twice more, for one token and for multiples of 16.
@triton.jit(do_not_specialize=["tokens"])
def _adaln_modulate_kernel(
    x, scale, shift, out, eps, tokens, C, x_row, x_token, scale_row, shift_row, BLOCK: tl.constexpr
):  # fmt: skip
    # grid (R * tokens,): one program per token; int64 because R * tokens * C passes 2**31 at 512 px and batch 512
    token = tl.program_id(0).to(tl.int64)
    row = token // tokens
    col = tl.arange(0, BLOCK)
    live = col < C
    x_C = tl.load(x + row * x_row + (token % tokens) * x_token + col, mask=live, other=0.0).to(tl.float32)
    scale_C = tl.load(scale + row * scale_row + col, mask=live, other=0.0).to(tl.float32)
    shift_C = tl.load(shift + row * shift_row + col, mask=live, other=0.0).to(tl.float32)
    # Two passes over registers: E[x^2] - E[x]^2 would cancel for rows whose mean is far from 0.
    centred_C = tl.where(live, x_C - tl.sum(x_C) / C, 0.0)
    variance = tl.sum(centred_C * centred_C) / C
    norm_C = centred_C * tl.rsqrt(variance + eps)
    tl.store(out + token * C + col, norm_C * (1 + scale_C) + shift_C, mask=live)


@triton.jit(do_not_specialize=["tokens"])
def _adaln_residual_kernel(
    x, gate, branch, out, tokens, C, x_row, x_token, gate_row, branch_row, branch_token, BLOCK: tl.constexpr
):  # fmt: skip
    # grid (R * tokens,): one program per token; int64 because R * tokens * C passes 2**31 at 512 px and batch 512
    token = tl.program_id(0).to(tl.int64)
    row = token // tokens
    col = tl.arange(0, BLOCK)
    live = col < C
    x_C = tl.load(x + row * x_row + (token % tokens) * x_token + col, mask=live, other=0.0).to(tl.float32)
    gate_C = tl.load(gate + row * gate_row + col, mask=live, other=0.0).to(tl.float32)
    branch_offset = row * branch_row + (token % tokens) * branch_token
    branch_C = tl.load(branch + branch_offset + col, mask=live, other=0.0).to(tl.float32)
    tl.store(out + token * C + col, x_C + gate_C * branch_C, mask=live)


def adaln_modulate(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(x) * (1 + scale) + shift, (R, l, C); biased variance, no affine parameters.

    Raises ContractError for operands that the kernel does not accept, or that need a gradient.
    """
    _check(x_RlC, tokens=(), modulation=(scale_R1C, shift_R1C))
    rows, tokens, C = x_RlC.shape
    out_RlC = torch.empty((rows, tokens, C), dtype=x_RlC.dtype, device=x_RlC.device)
    with torch.cuda.device_of(x_RlC):
        _adaln_modulate_kernel[(rows * tokens,)](
            x_RlC, scale_R1C, shift_R1C, out_RlC, eps, tokens, C, *x_RlC.stride()[:2],
            _row_stride(scale_R1C), _row_stride(shift_R1C), **_launch(C),
        )  # fmt: skip
    return out_RlC


def adaln_residual(x_RlC: Tensor, gate_R1C: Tensor, branch_RlC: Tensor) -> Tensor:
    """Return x + gate * branch, (R, l, C).

    Raises ContractError for operands that the kernel does not accept, or that need a gradient.
    """
    _check(x_RlC, tokens=(branch_RlC,), modulation=(gate_R1C,))
    rows, tokens, C = x_RlC.shape
    out_RlC = torch.empty((rows, tokens, C), dtype=x_RlC.dtype, device=x_RlC.device)
    with torch.cuda.device_of(x_RlC):
        _adaln_residual_kernel[(rows * tokens,)](
            x_RlC, gate_R1C, branch_RlC, out_RlC, tokens, C, *x_RlC.stride()[:2],
            _row_stride(gate_R1C), *branch_RlC.stride()[:2], **_launch(C),
        )  # fmt: skip
    return out_RlC


def _launch(C: int) -> dict[str, int]:
    # Eight channels per thread: one 16-byte load in bf16. Above 2,048 channels a thread takes more instead, because the
    # two sums then still meet in one step over eight warps.
    block = triton.next_power_of_2(C)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 8)}


def _row_stride(modulation_R1C: Tensor) -> int:
    return 0 if len(modulation_R1C) == 1 else modulation_R1C.stride(0)


def _check(x_RlC: Tensor, *, tokens: tuple[Tensor, ...], modulation: tuple[Tensor, ...]) -> None:
    if x_RlC.ndim != 3:
        raise ContractError(f"x must be (rows, tokens, channels), got {tuple(x_RlC.shape)}")
    R, _, C = x_RlC.shape
    for operand in tokens:
        if operand.shape != x_RlC.shape:
            raise ContractError(f"branch must have x's shape {tuple(x_RlC.shape)}, got {tuple(operand.shape)}")
    for operand in modulation:
        if operand.shape not in ((R, 1, C), (1, 1, C)):
            raise ContractError(f"modulation must be ({R} or 1, 1, {C}), got {tuple(operand.shape)}")
    for operand in (x_RlC, *tokens, *modulation):
        if operand.dtype not in DTYPES:
            raise ContractError(f"the Triton kernel takes float32, bfloat16 and float16, got {operand.dtype}")
        if operand.device != x_RlC.device:
            raise ContractError(f"all operands must be on {x_RlC.device}, one is on {operand.device}")
        if C > 1 and operand.stride(-1) != 1:
            raise ContractError(f"channels must be adjacent in memory, got strides {operand.stride()}")
        if torch.is_grad_enabled() and operand.requires_grad:
            raise ContractError(
                "the Triton kernel has no backward pass: use backend 'reference' to train, or torch.no_grad()"
            )
