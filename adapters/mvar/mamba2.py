"""Mamba-2: a sequence mixer that stores all earlier tokens in one state matrix per head.

Per head, with a decay a_t = exp(A dt_t) in (0, 1]:  S_t = a_t S_(t-1) + dt_t x_t B_t^T  and  y_t = S_t C_t.  The
token-by-token definition (`scan_recurrent`) and chunks of matrix products (arvbench.kernels.ssd_scan) give equal
results, and a sequence may be cut anywhere if the state is carried over.

Shapes   R forward rows, l tokens, W width, E inner width, H heads, P head channels (E = H P), N state channels,
         M convolved channels (E + 2 N), K convolution taps
Range    dt > 0, A < 0; the scan and the norm compute in at least fp32 for any dtype of the weights
Names    parameters have the names of the official state dicts
Source   Mamba-2 (arXiv:2405.21060): recurrence section 2, chunked form section 6, block section 7; behaviour of
         state-spaces/mamba at e9594ce
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arvbench.errors import UserError
from arvbench.kernels.dispatch import KernelSet
from arvbench.kernels.rms_norm_gated.reference import rms_norm_gated
from arvbench.kernels.ssd_scan.reference import CHUNK, Scan, ScanInputs, chunks_of, ssd_scan_from
from arvbench.kernels.ssd_scan.weights import ScanWeights


class MambaState(NamedTuple):
    """Memory of earlier tokens; zeros before the first token."""

    conv_RMK: Tensor
    """The last K columns before the convolution, oldest first (the official layout; only K - 1 of them are used)."""
    ssm_RHPN: Tensor
    """S of every head, in at least fp32."""


def scan_recurrent(inputs: ScanInputs, state_RHPN: Tensor) -> tuple[Tensor, Tensor]:
    """Scan token by token (see `Scan`): the definition, and the test reference for the chunked form."""
    x_RlHP, dt_RlH, A_H, B_RlN, C_RlN = inputs
    decay_RlH = (dt_RlH * A_H).exp()
    outputs = []
    for t in range(x_RlHP.shape[1]):
        new_RHPN = torch.einsum("rh,rhp,rn->rhpn", dt_RlH[:, t], x_RlHP[:, t], B_RlN[:, t])
        state_RHPN = decay_RlH[:, t, :, None, None] * state_RHPN + new_RHPN
        outputs.append(torch.einsum("rhpn,rn->rhp", state_RHPN, C_RlN[:, t]))
    return torch.stack(outputs, dim=1), state_RHPN


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaConfig:
    """Sizes of a mixer under their official names; the defaults fit M-VAR."""

    d_model: int
    d_state: int = 64
    d_conv: int = 4
    expand: int = 2
    headdim: int = 64
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.d_inner % self.headdim:
            raise UserError(
                f"a Mamba-2 of width {self.d_model} has {self.d_inner} inner channels, which are not a whole number of "
                f"heads of {self.headdim}; choose a width that is a multiple of {self.headdim // self.expand}"
            )

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model

    @property
    def heads(self) -> int:
        return self.d_inner // self.headdim

    @property
    def conv_channels(self) -> int:
        """M: x, B and C."""
        return self.d_inner + 2 * self.d_state

    def flops(self, tokens: int) -> int:
        """FLOPs per row for `tokens` new tokens with `scan_chunked`: matrix products and convolution."""
        inner, states = self.d_inner, self.d_state
        count, size = chunks_of(tokens, CHUNK)
        linear = 2 * self.d_model * (inner + self.conv_channels + self.heads) + 2 * inner * self.d_model
        scan = 2 * size * states + 2 * size * inner + 4 * states * inner
        return tokens * (linear + 2 * self.d_conv * self.conv_channels) + count * size * scan

    @property
    def parameters(self) -> int:
        """Number of weights."""
        projections = self.d_model * (self.d_inner + self.conv_channels + self.heads) + self.d_inner * self.d_model
        return projections + (self.d_conv + 1) * self.conv_channels + 3 * self.heads + self.d_inner


class GatedRMSNorm(nn.Module):
    """RMSNorm(y silu(z)) * weight: the gate comes before the norm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y_RlE: Tensor, z_RlE: Tensor, kernels: KernelSet | None = None) -> Tensor:
        operation = rms_norm_gated if kernels is None else kernels.rms_norm_gated
        normed_RlE: Tensor = operation(y_RlE, z_RlE, self.weight, self.eps)
        return normed_RlE


class Mamba2(nn.Module):
    """The mixer: projection, causal depthwise convolution, scan, gated norm, projection."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        channels, heads = config.conv_channels, config.heads
        self.in_proj = nn.Linear(config.d_model, config.d_inner + channels + heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.d_conv, groups=channels)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.norm = GatedRMSNorm(config.d_inner, config.norm_eps)
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=False)
        if not self.D.is_meta:  # arithmetic there would import torch's compiler
            with torch.no_grad():
                for name, values_H in self.initial_values().items():
                    self.get_parameter(name).copy_(values_H)

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name, where small random numbers would be wrong.

        Heads get different time scales, from the longest memory to the shortest: dt from 0.001 to 0.1 and -A from 1 to
        16, the official ranges, but evenly spaced instead of drawn.
        """
        heads = self.config.heads
        dt_H = torch.linspace(math.log(1e-3), math.log(0.1), heads).exp()
        return {
            "dt_bias": dt_H + (-torch.expm1(-dt_H)).log(),  # inverse softplus of dt
            "A_log": torch.linspace(1, 16, heads).log(),
            "D": torch.ones(heads),
            "norm.weight": torch.ones(self.config.d_inner),
        }

    def initial_state(self, rows: int) -> MambaState:
        """The state before the first token."""
        config, weight = self.config, self.conv1d.weight
        conv_RMK = weight.new_zeros(rows, config.conv_channels, config.d_conv)
        ssm_dtype = torch.promote_types(weight.dtype, torch.float32)
        ssm_RHPN = weight.new_zeros(rows, config.heads, config.headdim, config.d_state, dtype=ssm_dtype)
        return MambaState(conv_RMK, ssm_RHPN)

    @property
    def _conv_bias(self) -> Tensor:
        bias_M = self.conv1d.bias
        assert bias_M is not None
        return bias_M

    def forward(
        self,
        x_RlW: Tensor,
        state: MambaState | None = None,
        kernels: KernelSet | None = None,
        *,
        scan: Scan | None = None,
    ) -> tuple[Tensor, MambaState]:
        """Mix l new tokens, continuing from `state` (None: no earlier tokens); return (R, l, W) and the new state.

        The cost does not depend on the number of earlier tokens. Outside autograd `kernels` (None: the reference, by
        `scan`) write the new state over `state`.
        """
        config = self.config
        state = state or self.initial_state(len(x_RlW))
        z_RlE, new_RlM, dt_RlH = self.in_proj(x_RlW).split((config.d_inner, config.conv_channels, config.heads), dim=2)
        weights = ScanWeights(self.conv1d.weight, self._conv_bias, self.dt_bias, self.A_log, self.D)
        if kernels is None or torch.is_grad_enabled():
            y_RlHP, *after = ssd_scan_from(new_RlM, dt_RlH, weights, state, scan)
            state = MambaState(*after)
        else:
            y_RlHP = kernels.ssd_scan(new_RlM, dt_RlH, weights, *state)
        out_RlW: Tensor = self.out_proj(self.norm(y_RlHP.flatten(2), z_RlE, kernels).to(x_RlW.dtype))
        return out_RlW, state
