"""RMSNorm behind a gate in Triton; forward only.

Shapes   R forward rows, l tokens, E channels
Accepts  fp32, bf16 and fp16 in any mixture, channels adjacent in memory, any other strides (the gate is a slice of the
         mixer's input projection)
Range    arithmetic in fp32, result contiguous in the gate's dtype
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit(do_not_specialize=["tokens"])
def _rms_norm_gated_kernel(
    y, z, weight, out, eps, tokens, E, y_row, y_token, z_row, z_token, BLOCK: tl.constexpr
):  # fmt: skip
    # grid (R * tokens,): one program per token; int64 because R * tokens * E passes 2**31 at 512 px and batch 512
    program = tl.program_id(0).to(tl.int64)
    row, token = program // tokens, program % tokens
    col = tl.arange(0, BLOCK)
    live = col < E
    y_E = tl.load(y + row * y_row + token * y_token + col, mask=live, other=0.0).to(tl.float32)
    z_E = tl.load(z + row * z_row + token * z_token + col, mask=live, other=0.0).to(tl.float32)
    weight_E = tl.load(weight + col, mask=live, other=0.0).to(tl.float32)
    gated_E = y_E * z_E * tl.sigmoid(z_E)
    norm_E = gated_E * tl.rsqrt(tl.sum(gated_E * gated_E) / E + eps)
    tl.store(out + program * E + col, norm_E * weight_E, mask=live)


def rms_norm_gated(y_RlE: Tensor, z_RlE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """Return RMSNorm(y silu(z)) * weight, (R, l, E) in z's dtype.

    Raises ContractError for operands that the kernel does not accept, or that need a gradient.
    """
    _check(y_RlE, z_RlE, weight_E)
    rows, tokens, E = y_RlE.shape
    out_RlE = torch.empty((rows, tokens, E), dtype=z_RlE.dtype, device=y_RlE.device)
    block = triton.next_power_of_2(E)
    with torch.cuda.device_of(y_RlE):
        _rms_norm_gated_kernel[(rows * tokens,)](
            y_RlE, z_RlE, weight_E, out_RlE, eps, tokens, E, *y_RlE.stride()[:2], *z_RlE.stride()[:2],
            BLOCK=block, num_warps=min(max(block // 256, 1), 8),
        )  # fmt: skip
    return out_RlE


def _check(y_RlE: Tensor, z_RlE: Tensor, weight_E: Tensor) -> None:
    if y_RlE.ndim != 3 or z_RlE.shape != y_RlE.shape:
        raise ContractError(
            f"y and its gate must be (rows, tokens, channels), got {tuple(y_RlE.shape)} and {tuple(z_RlE.shape)}"
        )
    if weight_E.shape != y_RlE.shape[2:]:
        raise ContractError(f"weight must be ({y_RlE.shape[2]},), got {tuple(weight_E.shape)}")
    for operand in (y_RlE, z_RlE, weight_E):
        if operand.dtype not in DTYPES:
            raise ContractError(f"the Triton kernel takes float32, bfloat16 and float16, got {operand.dtype}")
        if operand.device != y_RlE.device:
            raise ContractError(f"all operands must be on {y_RlE.device}, one is on {operand.device}")
        if operand.shape[-1] > 1 and operand.stride(-1) != 1:
            raise ContractError(f"channels must be adjacent in memory, got strides {operand.stride()}")
        if torch.is_grad_enabled() and operand.requires_grad:
            raise ContractError(
                "the Triton kernel has no backward pass: use backend 'reference' to train, or torch.no_grad()"
            )
