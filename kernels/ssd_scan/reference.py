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

CHUNK = 16
"""Largest Q. Small chunks save work inside a chunk, which grows with Q; large ones save passes over the state. On a CPU
core at the width of M-VAR-d12 (24 heads of 64, N = 64, two rows) 256 tokens take 41, 35, 48, 62 and 85 ms with Q = 8,
16, 32, 64 and 128."""


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
    # With the channels innermost, as the projection wrote them, the convolution takes half the time on a CPU.
    window_RTM = torch.cat((conv_RMK.transpose(1, 2), new_RlM), dim=1)
    taps_M11K, bias_M = weights.conv_M1K.unsqueeze(2).to(window_RTM.dtype), weights.conv_bias_M.to(window_RTM.dtype)
    # A convolution of K taps does not reach the oldest column of the state.
    reached_RM1T = window_RTM[:, 1:].transpose(1, 2).unsqueeze(2)
    mixed_RMl = F.silu(F.conv2d(reached_RM1T, taps_M11K, bias_M, groups=len(bias_M)).squeeze(2))
    exact = ssm_RHPN.dtype
    x_RlE, B_RlN, C_RlN = mixed_RMl.transpose(1, 2).to(exact).split((heads * channels, states, states), dim=2)
    x_RlHP = x_RlE.unflatten(2, (heads, channels))
    dt_RlH = F.softplus(dt_RlH.to(exact) + weights.dt_bias_H.to(exact))
    inputs = ScanInputs(x_RlHP, dt_RlH, -weights.A_log_H.to(exact).exp(), B_RlN, C_RlN)
    y_RlHP, after_RHPN = (scan or scan_chunked)(inputs, ssm_RHPN)
    y_RlHP = torch.addcmul(y_RlHP, weights.D_H.to(exact).unsqueeze(-1), x_RlHP)
    return y_RlHP, window_RTM[:, -conv_RMK.shape[2] :].transpose(1, 2), after_RHPN


def scan_chunked(inputs: ScanInputs, state_RHPN: Tensor, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Scan in chunks of matrix products: (y (R, l, H, P), state after the last token).

    Work is linear in l: inside a chunk every token reads the earlier ones through a Q x Q matrix, and only
    the state passes between chunks (section 6, "state space duality").
    """
    x_RlHP, dt_RlH, A_H, B_RlN, C_RlN = inputs
    rows, tokens, heads, channels = x_RlHP.shape
    count, size = chunks_of(tokens, chunk)
    # Padding with dt = 0 neither decays the state nor adds to it.
    x_RnQHP, dt_RnQH, B_RnQN, C_RnQN = (_in_chunks(t, count, size) for t in (x_RlHP, dt_RlH, B_RlN, C_RlN))
    dt_RnHQ, C_RnNQ = dt_RnQH.transpose(2, 3), C_RnQN.transpose(2, 3)
    # Tokens innermost from here on: every product below reads its factors where they are, without a copy.
    added_RnHPQ = (x_RnQHP.permute(0, 1, 3, 4, 2) * dt_RnHQ.unsqueeze(3)).contiguous()
    decays_RnHSQ = decay_between(dt_RnHQ * A_H.unsqueeze(-1))
    from_start_RnHQ, kept_RnHQQ = decays_RnHSQ[..., 0, :], decays_RnHSQ[..., 1:, :]

    # Zero where the reader comes before the writer; the decays are 1 there, which the exponential computes fast.
    scores_RnQQ = (B_RnQN @ C_RnNQ).triu()
    inside_RnHPQ = added_RnHPQ @ (scores_RnQQ.unsqueeze(2) * kept_RnHQQ)

    written_RnEQ = (added_RnHPQ * kept_RnHQQ[..., -1].unsqueeze(3)).flatten(2, 3)
    written_RnHPN = (written_RnEQ @ B_RnQN).unflatten(2, (heads, channels))
    entering = []
    for i in range(count):
        entering.append(state_RHPN)
        state_RHPN = torch.addcmul(written_RnHPN[:, i], from_start_RnHQ[:, i, :, -1, None, None], state_RHPN)
    read_RnEQ = torch.stack(entering, dim=1).flatten(2, 3) @ C_RnNQ
    read_RnHPQ = read_RnEQ.unflatten(2, (heads, channels))

    y_RnHPQ = torch.addcmul(inside_RnHPQ, read_RnHPQ, from_start_RnHQ.unsqueeze(3))
    return y_RnHPQ.permute(0, 1, 4, 2, 3).reshape(rows, -1, heads, channels)[:, :tokens], state_RHPN


def chunks_of(tokens: int, chunk: int) -> tuple[int, int]:
    """(number of chunks, Q): the fewest chunks of at most `chunk` tokens, as equal as whole tokens allow."""
    count = -(-tokens // chunk)
    return count, -(-tokens // count)


def decay_between(log_decay_sQ: Tensor) -> Tensor:
    """Decay (..., S, Q), S = Q + 1, up to the read of token i (column): exp of a sum that ends with i.

    Row 0 is the decay since the start of the chunk, row j + 1 that since the write of token j: the sum is over
    j < t <= i, and 0 where i comes no later than j.

    Every sum is computed separately: differences of one running sum would cancel after a strong decay and lose the weak
    decays that follow.
    """
    size = log_decay_sQ.shape[-1]
    after_SQ = log_decay_sQ.new_ones(size + 1, size).triu()
    return (log_decay_sQ.unsqueeze(-2) * after_SQ).cumsum_(-1).exp_()


def _in_chunks(t_Rl: Tensor, count: int, size: int) -> Tensor:
    """Split (R, l, ...) into (R, n, Q, ...), the last chunk padded with zeros."""
    missing = count * size - t_Rl.shape[1]
    padded = F.pad(t_Rl, (0, 0) * (t_Rl.ndim - 2) + (0, missing)) if missing else t_Rl
    chunks_Rn: Tensor = padded.unflatten(1, (count, size))
    return chunks_Rn
