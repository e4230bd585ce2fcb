"""Mamba-2's scan in Triton: a kernel for convolution and SiLU, and one for step sizes, scan, skip and new state.

A program of the scan owns some channels of one head and walks over the tokens in chunks, its state in registers: inside
a chunk the tokens read each other through a product of matrices, as the reference does. The convolution is a kernel of
its own because all heads read the same B and C. Forward only.

Shapes   R forward rows, l tokens, H heads, P head channels, N state channels, M convolved channels (H P + 2 N: x, B
         and C), K convolution taps, Q tokens of a chunk
Accepts  fp32, bf16 and fp16 around a state in fp32, P and N of 16, 32 or 64, channels adjacent in
         memory; states contiguous
Range    fp32; sums of log decays in fp64, so that no difference of two cancels; products of fp32 operands in three TF32
         passes, which keep fp32's accuracy, of 16-bit ones in one, which is more exact than their rounding
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arvbench.errors import ContractError
from arvbench.kernels.interpreter import block_size
from arvbench.kernels.ssd_scan.weights import ScanWeights, unsupported

CHUNK = 32
"""Q: products of larger chunks need more registers than a thread has."""


@triton.jit(do_not_specialize=["tokens"])
def _convolution_kernel(
    new, taps, bias, conv, mixed, tokens, M, new_row, new_token, K: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    # grid (R, ceil(M / BLOCK)); int64 because R * l * M passes 2**31 at batch 512
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = (channel < M)[None, :]
    new += row * new_row
    conv += row * M * K + channel[None, :] * K
    for start in range(0, tokens, T):
        t = start + tl.arange(0, T)[:, None]
        out = tl.zeros((T, BLOCK), tl.float32) + tl.load(bias + channel, mask=channel < M, other=0.0)[None, :]
        for k in tl.static_range(K):
            at = t - (K - 1) + k
            fresh = tl.load(new + at * new_token + channel[None, :], mask=live & (at >= 0) & (at < tokens), other=0.0)
            old = tl.load(conv + K + at, mask=live & (at < 0), other=0.0)
            tap = tl.load(taps + channel * K + k, mask=channel < M, other=0.0).to(tl.float32)
            out += tl.where(at < 0, old.to(tl.float32), fresh.to(tl.float32)) * tap[None, :]
        tl.store(mixed + (row * tokens + t) * M + channel[None, :], out * tl.sigmoid(out), mask=live & (t < tokens))
    for k in tl.static_range(K):
        # Column k takes one that stands behind it: all threads have read a column before it is overwritten.
        tl.debug_barrier()
        at = tokens - K + k
        old = tl.load(conv + K + at, mask=live & (at < 0), other=0.0)
        fresh = tl.load(new + at * new_token + channel[None, :], mask=live & (at >= 0), other=0.0)
        tl.store(conv + k, tl.where(at < 0, old, fresh.to(old.dtype)), mask=live)


@triton.jit
def _steps(dt, A_log, dt_bias, token_stride, t, tokens):
    """Step sizes (Q,) fp32 and sums of log decays up to every token (Q,) fp64; dead tokens neither write nor decay."""
    raw = tl.load(dt + t * token_stride, mask=t < tokens, other=0.0).to(tl.float64) + tl.load(dt_bias).to(tl.float64)
    size = tl.maximum(raw, 0.0) + tl.log(1 + tl.exp(-tl.abs(raw)))
    size = tl.where(t < tokens, size, 0.0)
    decay = -size * tl.exp(tl.load(A_log).to(tl.float64))
    # exp of less is 0 in fp32; without infinities no difference of sums is NaN.
    return size.to(tl.float32), tl.cumsum(tl.where(decay < -1e4, -1e4, decay), 0)


@triton.jit(do_not_specialize=["tokens"])
def _ssd_scan_kernel(
    mixed, dt, dt_bias, A_log, D, ssm, y, tokens, H, dt_row, dt_token,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # grid (R * H, P / BLOCK_P); int64 because R * l * M passes 2**31 at batch 512
    row, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    part = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    state_channel, place = tl.arange(0, N), tl.arange(0, Q)
    M = H * P + 2 * N
    own = ssm + ((row * H + head) * P + part[:, None]) * N + state_channel[None, :]
    S = tl.load(own)
    skip = tl.load(D + head).to(tl.float32)
    for start in range(0, tokens, Q):
        t = start + place
        live = (t < tokens)[:, None]
        line = mixed + (row * tokens + t[:, None]) * M
        x = tl.load(line + head * P + part[None, :], mask=live, other=0.0).to(tl.float32)
        B = tl.load(line + H * P + state_channel[None, :], mask=live, other=0.0)
        C = tl.load(line + H * P + N + state_channel[None, :], mask=live, other=0.0)
        size, log_sum = _steps(dt + row * dt_row + head, A_log + head, dt_bias + head, dt_token, t, tokens)
        # Differences of the fp64 sums, in two fp32 parts.
        high = log_sum.to(tl.float32)
        low = (log_sum - high.to(tl.float64)).to(tl.float32)
        between = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
        kept = tl.exp(tl.where(place[:, None] >= place[None, :], between, float("-inf")))
        scores = tl.dot(C, tl.trans(B), input_precision=PRECISION) * kept
        added = x * size[:, None]
        out = tl.dot(C.to(tl.float32), tl.trans(S), input_precision=PRECISION) * tl.exp(high)[:, None]
        out += tl.dot(scores, added, input_precision=PRECISION) + skip * x
        at = ((row * tokens + t[:, None]) * H + head) * P + part[None, :]
        tl.store(y + at, out, mask=live)
        whole = tl.sum(tl.where(place == Q - 1, log_sum, 0.0))
        written = added * tl.exp((whole - log_sum).to(tl.float32))[:, None]
        new = tl.dot(tl.trans(written), B.to(tl.float32), input_precision=PRECISION)
        S = S * tl.exp(whole.to(tl.float32)) + new
    tl.store(own, S)


def ssd_scan(new_RlM: Tensor, dt_RlH: Tensor, weights: ScanWeights, conv_RMK: Tensor, ssm_RHPN: Tensor) -> Tensor:
    """Return y (R, l, H, P) of l new tokens in the state's dtype; the two states are continued in place.

    new_RlM    channels before the convolution
    dt_RlH     step sizes before their bias and softplus
    conv_RMK   the last K columns before the convolution, oldest first, of which K - 1 are used
    ssm_RHPN   S of every head

    Raises ContractError for operands that the kernel does not accept, or that need a gradient.
    """
    _check(new_RlM, dt_RlH, weights, conv_RMK, ssm_RHPN)
    rows, tokens, M = new_RlM.shape
    _, H, P, N = ssm_RHPN.shape
    K = conv_RMK.shape[2]
    device, exact = new_RlM.device, new_RlM.dtype == torch.float32
    taps_M1K, bias_M, *heads = (weight.contiguous() for weight in weights)
    mixed_RlM = torch.empty((rows, tokens, M), dtype=new_RlM.dtype, device=device)
    y_RlHP = torch.empty((rows, tokens, H, P), dtype=ssm_RHPN.dtype, device=device)
    # The operands of exact products take three times the registers.
    chunk, block_p = block_size(16 if tokens <= 16 or exact else CHUNK, tokens), min(P, 32)
    length, width = block_size(16, tokens), block_size(64, M)
    with torch.cuda.device_of(new_RlM):
        _convolution_kernel[(rows, triton.cdiv(M, width))](
            new_RlM, taps_M1K, bias_M, conv_RMK, mixed_RlM, tokens, M, *new_RlM.stride()[:2],
            K=K, T=length, BLOCK=width,
        )  # fmt: skip
        _ssd_scan_kernel[(rows * H, P // block_p)](
            mixed_RlM, dt_RlH, *heads, ssm_RHPN, y_RlHP, tokens, H, *dt_RlH.stride()[:2],
            P=P, N=N, Q=chunk, BLOCK_P=block_p, PRECISION="tf32x3" if exact else "tf32", num_warps=4, num_stages=1,
        )  # fmt: skip
    return y_RlHP


def _check(new_RlM: Tensor, dt_RlH: Tensor, weights: ScanWeights, conv_RMK: Tensor, ssm_RHPN: Tensor) -> None:
    if new_RlM.ndim != 3 or ssm_RHPN.ndim != 4 or new_RlM.numel() == 0:
        raise ContractError(
            f"channels must be (R, l, M), none of them 0, and the state (R, H, P, N), got {tuple(new_RlM.shape)} and "
            f"{tuple(ssm_RHPN.shape)}"
        )
    rows, tokens, M = new_RlM.shape
    _, H, P, N = ssm_RHPN.shape
    K = conv_RMK.shape[-1]
    expected = {
        "dt": (dt_RlH, (rows, tokens, H)),
        "conv": (conv_RMK, (rows, M, K)),
        "ssm": (ssm_RHPN, (rows, H, P, N)),
        "conv_M1K": (weights.conv_M1K, (M, 1, K)),
        "conv_bias_M": (weights.conv_bias_M, (M,)),
        **{name: (getattr(weights, name), (H,)) for name in ("dt_bias_H", "A_log_H", "D_H")},
    }
    for name, (operand, shape) in expected.items():
        if operand.shape != shape:
            raise ContractError(f"{name} must be {shape}, got {tuple(operand.shape)}")
        if operand.device != new_RlM.device:
            raise ContractError(f"all operands must be on {new_RlM.device}, {name} is on {operand.device}")
        if torch.is_grad_enabled() and operand.requires_grad:
            raise ContractError("the Triton kernel has no backward pass: use backend 'reference' to train")
    if M != H * P + 2 * N:
        raise ContractError(f"{H} heads of {P} and {N} state channels have {H * P + 2 * N} channels, got {M}")
    if not (conv_RMK.is_contiguous() and ssm_RHPN.is_contiguous()):
        raise ContractError("the states, which are written, must be contiguous")
    if reason := unsupported(new_RlM, dt_RlH, weights, conv_RMK, ssm_RHPN):
        raise ContractError(reason)
