"""Mamba-2's scan in plain PyTorch: the definition.

Per head, with a decay a_t = exp(A dt_t) in (0, 1]:  S_t = a_t S_(t-1) + dt_t x_t B_t^T  and  y_t = S_t C_t + D x_t;
x, B and C come from a causal depthwise convolution over the tokens and a SiLU.

Shapes   R forward rows, l tokens, H heads, P head channels, N state channels, M convolved channels (H P + 2 N: x, B
         and C), K convolution taps, n chunks of Q tokens
Range    dt > 0, A < 0; the scan computes in the dtype of the state, fp32 at least
Source   Mamba-2 (arXiv:2405.21060): recurrence section 2, chunked form section 6, block section 7; behaviour of
         state-spaces/mamba at e9594ce
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.kernels.ssd_scan.weights import ScanWeights

CHUNK = 32
"""Q. Small chunks save work inside a chunk, which grows with Q; large ones save passes over the state. On a CPU
core at the width of M-VAR-d12 (24 heads of 64, N = 64, two rows) 256 tokens take 13, 9, 13, 20 and 42 ms with Q = 16,
32, 64, 128 and 256; 32 is also among the fastest for 64 to 680 tokens and for training the demo model."""


class ScanInputs(NamedTuple):
    """Inputs of the recurrence for l tokens."""

    x_RlHP: Tensor
    dt_RlH: Tensor
    """Step sizes, > 0."""
    A_H: Tensor
    """Decay rates, < 0."""
    B_RlN: Tensor
    C_RlN: Tensor


Scan = Callable[[ScanInputs, Tensor], tuple[Tensor, Tensor]]
"""(inputs, state (R, H, P, N) before the first token) -> (y (R, l, H, P), state after the last token)."""


def ssd_scan(new_RlM: Tensor, dt_RlH: Tensor, weights: ScanWeights, conv_RMK: Tensor, ssm_RHPN: Tensor) -> Tensor:
    """Return y (R, l, H, P) of l new tokens in the state's dtype; the two states are continued in place.

    new_RlM    channels before the convolution
    dt_RlH     step sizes before their bias and softplus
    conv_RMK   the last K columns before the convolution, oldest first, of which K - 1 are used
    ssm_RHPN   S of every head
    """
    y_RlHP, conv_after_RMK, ssm_after_RHPN = ssd_scan_from(new_RlM, dt_RlH, weights, (conv_RMK, ssm_RHPN))
    conv_RMK.copy_(conv_after_RMK)
    ssm_RHPN.copy_(ssm_after_RHPN)
    return y_RlHP


def ssd_scan_from(
    new_RlM: Tensor, dt_RlH: Tensor, weights: ScanWeights, state: tuple[Tensor, Tensor], scan: Scan | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y and both states of `ssd_scan` after the tokens, and leave `state` as it is: with a gradient.

    `scan` None means `scan_chunked`.
    """
    conv_RMK, ssm_RHPN = state
    _, heads, channels, states = ssm_RHPN.shape
    window_RMl = torch.cat((conv_RMK, new_RlM.transpose(1, 2)), dim=2)
    taps_M1K, bias_M = weights.conv_M1K.to(window_RMl.dtype), weights.conv_bias_M.to(window_RMl.dtype)
    # A convolution of K taps does not reach the oldest column of the state.
    mixed_RMl = F.silu(F.conv1d(window_RMl[:, :, 1:], taps_M1K, bias_M, groups=len(bias_M)))
    exact = ssm_RHPN.dtype
    x_RlE, B_RlN, C_RlN = mixed_RMl.transpose(1, 2).to(exact).split((heads * channels, states, states), dim=2)
    x_RlHP = x_RlE.unflatten(2, (heads, channels))
    dt_RlH = F.softplus(dt_RlH.to(exact) + weights.dt_bias_H.to(exact))
    inputs = ScanInputs(x_RlHP, dt_RlH, -weights.A_log_H.to(exact).exp(), B_RlN, C_RlN)
    y_RlHP, after_RHPN = (scan or scan_chunked)(inputs, ssm_RHPN)
    skipped_RlHP: Tensor = weights.D_H.to(exact).unsqueeze(-1) * x_RlHP
    return y_RlHP + skipped_RlHP, window_RMl[:, :, -conv_RMK.shape[2] :], after_RHPN


def scan_chunked(inputs: ScanInputs, state_RHPN: Tensor, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Scan in chunks of matrix products: (y (R, l, H, P), state after the last token).

    Work is linear in l: inside a chunk every token reads the earlier ones through a Q x Q matrix, and only
    the state passes between chunks (section 6, "state space duality").
    """
    x_RlHP, dt_RlH, A_H, B_RlN, C_RlN = inputs
    rows, tokens, heads, channels = x_RlHP.shape
    size = min(chunk, tokens)
    # Padding with dt = 0 neither decays the state nor adds to it.
    x_RnQHP, dt_RnQH, B_RnQN, C_RnQN = (_in_chunks(t, size) for t in (x_RlHP, dt_RlH, B_RlN, C_RlN))
    added_RnQHP = x_RnQHP * dt_RnQH.unsqueeze(-1)
    log_decay_RnHQ = (dt_RnQH * A_H).transpose(2, 3)
    kept_RnHQQ = decay_between(log_decay_RnHQ)

    scores_RnQQ = C_RnQN @ B_RnQN.transpose(2, 3)
    inside_RnHQP = (scores_RnQQ.unsqueeze(2) * kept_RnHQQ) @ added_RnQHP.transpose(2, 3)

    kept_to_end_RnQH1 = kept_RnHQQ[..., -1, :].transpose(2, 3).unsqueeze(-1)
    written_RnEN = (added_RnQHP * kept_to_end_RnQH1).flatten(3).transpose(2, 3) @ B_RnQN
    written_RnHPN = written_RnEN.unflatten(2, (heads, channels))
    kept_from_start_RnHQ = log_decay_RnHQ.cumsum(-1).exp()
    entering = []
    for i in range(written_RnHPN.shape[1]):
        entering.append(state_RHPN)
        state_RHPN = kept_from_start_RnHQ[:, i, :, -1, None, None] * state_RHPN + written_RnHPN[:, i]
    read_RnQE = C_RnQN @ torch.stack(entering, dim=1).flatten(2, 3).transpose(2, 3)
    before_RnQHP = read_RnQE.unflatten(3, (heads, channels)) * kept_from_start_RnHQ.transpose(2, 3).unsqueeze(-1)

    y_RnQHP = inside_RnHQP.transpose(2, 3) + before_RnQHP
    return y_RnQHP.reshape(rows, -1, heads, channels)[:, :tokens], state_RHPN


def decay_between(log_decay_sQ: Tensor) -> Tensor:
    """Decay (..., Q, Q) between the write of token j (column) and the read of token i (row): exp of the sum over
    j < t <= i, zero above the diagonal.

    Every sum is computed separately: differences of one running sum would cancel after a strong decay and lose the weak
    decays that follow.
    """
    terms_sQQ = log_decay_sQ.unsqueeze(-1).expand(*log_decay_sQ.shape, log_decay_sQ.shape[-1])
    return terms_sQQ.tril(-1).cumsum(-2).exp().tril()


def _in_chunks(t_Rl: Tensor, size: int) -> Tensor:
    """Split (R, l, ...) into (R, n, Q, ...), the last chunk padded with zeros."""
    missing = -t_Rl.shape[1] % size
    padded = F.pad(t_Rl, (0, 0) * (t_Rl.ndim - 2) + (0, missing)) if missing else t_Rl
    chunks_Rn: Tensor = padded.unflatten(1, (-1, size))
    return chunks_Rn
