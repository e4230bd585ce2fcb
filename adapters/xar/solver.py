"""The solver of xAR: from noise to a clean cell by Euler-Maruyama steps, in float64 around a model in its own dtype.

Time runs from 1 (noise) to 0 (data). The velocity is noise minus data; the score follows from it. Every step but the
last adds noise, drawn before the model runs.

Shapes   B images, R forward rows (B conditional, then, with guidance, B unconditional), l tokens, K latent channels
Source   behaviour of OliverRensu/xAR at 121e9c9
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

LAST_TIME = 0.04
"""Time of the last evaluation."""


def evaluation_times(steps: int) -> list[float]:
    """Return the times at which the model is evaluated, in falling order."""
    times: list[float] = torch.linspace(1, LAST_TIME, steps, dtype=torch.float64).tolist()
    return times


def drift(velocity_XlK: Tensor, x_XlK: Tensor, time: float) -> Tensor:
    """Right side of the stochastic equation without its noise, whose factor is sqrt(2 t)."""
    rest = 1 - time
    score_XlK = (-rest * velocity_XlK - x_XlK) / (time**2 + rest * time)
    return velocity_XlK - 0.5 * (2 * time) * score_XlK


def solve(
    start_BlK: Tensor,
    steps: int,
    strength: float | None,
    *,
    velocity: Callable[[Tensor, int], Tensor],
    normals: Iterator[Tensor],
) -> Tensor:
    """Return the clean cell (B, l, K) fp32.

    `velocity` gives those of R rows for the state (B, l, K) fp32 and the number of the evaluation, `normals` the
    float64 noise of each step but the last. `strength` mixes conditional and unconditional rows; None takes the
    conditional ones.
    """
    x_BlK = start_BlK.double()
    times = [*evaluation_times(steps), 0.0]
    for number, (time, after) in enumerate(pairwise(times)):
        last = number == steps - 1
        noise_BlK = None if last else next(normals)
        v_RlK = velocity(x_BlK.float(), number).double()
        d_BlK = drift(v_RlK[: len(x_BlK)], x_BlK, time)
        if strength is not None:
            unguided_BlK = drift(v_RlK[len(x_BlK) :], x_BlK, time)
            d_BlK = unguided_BlK + strength * (d_BlK - unguided_BlK)
        step = after - time
        x_BlK = x_BlK + d_BlK * step
        if noise_BlK is not None:
            x_BlK = x_BlK + math.sqrt(2 * time) * (noise_BlK * math.sqrt(abs(step)))
    return x_BlK.float()
