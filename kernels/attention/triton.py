"""The inner step of every attention kernel: a softmax over keys that arrive block by block.

Scores are kept in units of log 2, since exp2 is one instruction: whoever calls scales them by log2(e).

Shapes   M queries and N keys of one block, D head channels
Source   online softmax (arXiv:1805.02867), as FlashAttention-2 (arXiv:2307.08691) orders it
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError

LOG2_E = tl.constexpr(1.4426950408889634)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def attend(score_MN, v_ND, acc_MD, top_M, sum_M, EXACT: tl.constexpr):
    """Add one block of keys to `acc`, the sum of values under weights 2**(score - top), and `sum`, that of the weights.

    The score of a hidden key is -inf; every query sees at least one key of a block, so `top` is finite afterwards.
    """
    new_top_M = tl.maximum(top_M, tl.max(score_MN, 1))
    weight_MN = tl.exp2(score_MN - new_top_M[:, None])
    shrink_M = tl.exp2(top_M - new_top_M)
    acc_MD = tl.dot(weight_MN.to(v_ND.dtype), v_ND, acc_MD * shrink_M[:, None], input_precision=EXACT)
    return acc_MD, new_top_M, sum_M * shrink_M + tl.sum(weight_MN, 1)


def precision(dtype: torch.dtype) -> str:
    """Return how tl.dot multiplies operands of `dtype`: fp32 as three TF32 products, whose error is that of fp32."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def check_operands(first: Tensor, *others: Tensor | None, scalars: Sequence[Tensor | None] = ()) -> None:
    """Raise ContractError unless all operands lie on one device, and those with channels have a dtype of the kernels,
    adjacent channels and no gradient; `scalars` are operands without channels.
    """
    for operand in (first, *others, *scalars):
        if operand is None:
            continue
        if operand.device != first.device:
            raise ContractError(f"all operands must be on {first.device}, one is on {operand.device}")
        if torch.is_grad_enabled() and operand.requires_grad:
            raise ContractError(
                "the Triton kernel has no backward pass: use backend 'reference' to train, or torch.no_grad()"
            )
        if any(operand is scalar for scalar in scalars):
            continue
        if operand.dtype not in DTYPES:
            raise ContractError(f"the Triton kernel takes float32, bfloat16 and float16, got {operand.dtype}")
        if operand.shape[-1] > 1 and operand.stride(-1) != 1:
            raise ContractError(f"channels must be adjacent in memory, got strides {operand.stride()}")


def check_projections(qkv_Rl3HD: Tensor) -> None:
    """Raise ContractError unless the projections are (R, l, 3, H, D), none of these 0."""
    if qkv_Rl3HD.ndim != 5 or qkv_Rl3HD.shape[2] != 3 or 0 in qkv_Rl3HD.shape:
        raise ContractError(f"qkv must be (rows, tokens, 3, heads, channels), got {tuple(qkv_Rl3HD.shape)}")


def check_cache(qkv_Rl3HD: Tensor, keys_RHTD: Tensor, values_RHTD: Tensor, filled_1: Tensor) -> None:
    """Raise ContractError unless the cache fits the projections and its length is an int32."""
    check_projections(qkv_Rl3HD)
    R, tokens, _, H, D = qkv_Rl3HD.shape
    if filled_1.dtype != torch.int32 or filled_1.numel() != 1:
        raise ContractError(f"the filled length must be one int32, got {filled_1.dtype} {tuple(filled_1.shape)}")
    for name, buffer in (("keys", keys_RHTD), ("values", values_RHTD)):
        if buffer.ndim != 4 or buffer.shape[:2] != (R, H) or buffer.shape[3] != D or buffer.shape[2] < tokens:
            raise ContractError(f"{name} must be ({R}, {H}, at least {tokens}, {D}), got {tuple(buffer.shape)}")
        if buffer.dtype != qkv_Rl3HD.dtype:
            raise ContractError(f"{name} must be {qkv_Rl3HD.dtype} as the projections are, got {buffer.dtype}")
