"""The solver of FlowAR: from noise to the latents of a scale by Euler steps, in float64 around a head in its own dtype.

The official noise has two halves. Above the time at which guidance begins both run unguided on their own; below it the
first half is fed twice, and its guided velocity moves both. Only the first half is kept: a start without the second
one gives the same latents from half of the unguided rows.

Shapes   B images, R rows of the state (B, or 2 B with the second half), l tokens of a scale, K latent channels
Source   behaviour of wangqiang9/FlowAR at 5745a96
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

UNIFORM_STEPS = 50
"""The one number of steps whose times are evenly spaced."""
_FINE_FROM, _COARSE_TO = 0.25, 0.3


def evaluation_times(steps: int) -> list[float]:
    """Return the times of the evaluations in falling order, and 0: an odd number of steps has one less."""
    if steps == UNIFORM_STEPS:
        times: list[float] = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        return times
    half = steps // 2
    coarse = torch.linspace(1, _COARSE_TO, half, dtype=torch.float64)
    fine = torch.linspace(_FINE_FROM, 0, half + 1, dtype=torch.float64)
    both: list[float] = torch.cat((coarse, fine)).tolist()
    return both


def solve(
    start_RlK: Tensor,
    images: int,
    times: list[float],
    *,
    strength: Callable[[float], float | None],
    velocity: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Return the final state (R, l, K) fp32, of which the first `images` rows are the latents.

    `velocity` gives those of a state (R, l, K) fp32, or guided (2 B, l, K), at the evaluation of a number, `strength`
    the guidance at a time; None leaves every row to itself.
    """
    x_RlK = start_RlK.double()
    for number, (time, after) in enumerate(pairwise(times)):
        mixed = strength(time)
        if mixed is None:
            v_RlK = velocity(x_RlK.float(), number).double()
        else:
            fed_RlK = torch.cat((x_RlK[:images], x_RlK[:images])).float()
            cond_BlK, uncond_BlK = velocity(fed_RlK, number).double().chunk(2)
            guided_BlK = uncond_BlK + mixed * (cond_BlK - uncond_BlK)
            v_RlK = guided_BlK.repeat(len(x_RlK) // images, 1, 1)
        x_RlK = x_RlK + v_RlK * (after - time)
    return x_RlK.float()
