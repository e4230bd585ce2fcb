"""SwiGLU in Triton; forward only.

Shapes   R forward rows, l tokens, F hidden channels
Accepts  fp32, bf16 and fp16, channels adjacent in memory, any other strides (both may be halves of one projection)
Range    arithmetic in fp32, result contiguous in x's dtype
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = 1024


@triton.jit(do_not_specialize=["tokens"])
def _swiglu_kernel(
    gate, x, out, tokens, F, gate_row, gate_token, x_row, x_token, BLOCK: tl.constexpr
):  # fmt: skip
    # grid (R * tokens, ceil(F / BLOCK)); int64 because R * tokens * F passes 2**31 at batch 512
    program = tl.program_id(0).to(tl.int64)
    row, token = program // tokens, program % tokens
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = col < F
    gate_F = tl.load(gate + row * gate_row + token * gate_token + col, mask=live, other=0.0).to(tl.float32)
    x_F = tl.load(x + row * x_row + token * x_token + col, mask=live, other=0.0).to(tl.float32)
    tl.store(out + program * F + col, gate_F * tl.sigmoid(gate_F) * x_F, mask=live)


def swiglu(gate_RlF: Tensor, x_RlF: Tensor) -> Tensor:
    """Return silu(gate) * x, (R, l, F).

    Raises ContractError for operands that the kernel does not accept, or that need a gradient.
    """
    _check(gate_RlF, x_RlF)
    rows, tokens, F = x_RlF.shape
    out_RlF = torch.empty((rows, tokens, F), dtype=x_RlF.dtype, device=x_RlF.device)
    with torch.cuda.device_of(x_RlF):
        # Eight channels per thread: one 16-byte load in bf16.
        _swiglu_kernel[(rows * tokens, triton.cdiv(F, BLOCK))](
            gate_RlF, x_RlF, out_RlF, tokens, F, *gate_RlF.stride()[:2], *x_RlF.stride()[:2], BLOCK=BLOCK, num_warps=4
        )
    return out_RlF


def _check(gate_RlF: Tensor, x_RlF: Tensor) -> None:
    if x_RlF.ndim != 3 or gate_RlF.shape != x_RlF.shape:
        raise ContractError(
            f"both operands must be (rows, tokens, channels), got {tuple(gate_RlF.shape)} and {tuple(x_RlF.shape)}"
        )
    for operand in (gate_RlF, x_RlF):
        if operand.dtype not in DTYPES:
            raise ContractError(f"the Triton kernel takes float32, bfloat16 and float16, got {operand.dtype}")
        if operand.device != x_RlF.device:
            raise ContractError(f"all operands must be on {x_RlF.device}, one is on {operand.device}")
        if operand.shape[-1] > 1 and operand.stride(-1) != 1:
            raise ContractError(f"channels must be adjacent in memory, got strides {operand.stride()}")
        if torch.is_grad_enabled() and operand.requires_grad:
            raise ContractError(
                "the Triton kernel has no backward pass: use backend 'reference' to train, or torch.no_grad()"
            )
