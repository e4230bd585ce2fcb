"""Gaussian diffusion by the ancestral sampler, for heads that predict noise: a cosine schedule, respaced.

Training uses 1,000 timesteps and sampling a subset of them; the network always gets the timestep of the full process.
Constants are computed in float64 and multiply tensors in the tensors' own dtype.

Shapes   X leading dimensions, K latent channels
Range    variances natural-log
Source   improved DDPM (arXiv:2102.09672): respacing, learned variances, bound; behaviour of LTH14/mar at fe470ac
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

TRAINING_STEPS = 1000
LAST_NUMBER = TRAINING_STEPS - 1
"""Number of the noisiest training step."""
_OFFSET, _MOST_NOISE = 0.008, 0.999
_HALF_BIN, _OUTER, _LEAST_SHARE = 1 / 255, 0.999, 1e-12
"""Of the discretised likelihood at step 0: half the width of a bin, the values beyond which bins are open, and the
least probability of one.
"""


class Constants(NamedTuple):
    """Constants of one step, or tensors (X, 1) of those of a step for every vector."""

    signal: Any
    """Factor of the data in a state."""
    noise: Any
    """Factor of the noise in a state."""
    to_start: Any
    """Factor of a state in the data that the predicted noise implies."""
    noise_to_start: Any
    start_to_mean: Any
    """Factor of that data in the mean of the state before."""
    state_to_mean: Any
    least_log_variance: Any
    """Log-variance of the state before, given state and data."""
    most_log_variance: Any
    """Log-variance of the step's own noise."""
    fixed_log_variance: Any
    """Log-variance for a network that predicts none: that of the step's own noise, smaller in the last one."""

    def noisy(self, data: Tensor, noise: Tensor) -> Tensor:
        """State with this noise in the data."""
        state: Tensor = self.signal * data + self.noise * noise
        return state

    def mean(self, x: Tensor, noise: Tensor) -> Tensor:
        """Mean of the state before `x`, in which the network predicts `noise`."""
        return self.mean_of(x, self.to_start * x - self.noise_to_start * noise)

    def mean_of(self, x: Tensor, data: Tensor) -> Tensor:
        """Mean of the state before `x`, given the data."""
        mean: Tensor = self.start_to_mean * data + self.state_to_mean * x
        return mean

    def log_variance(self, raw: Tensor) -> Tensor:
        """Log-variance between its limits, for the network's output in -1..1."""
        share = (raw + 1) / 2
        log_variance: Tensor = share * self.most_log_variance + (1 - share) * self.least_log_variance
        return log_variance


class Process:
    """Process over the training steps `numbers`; the index of a step counts in rising noise."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        left = [_training_signal()[number] for number in numbers]
        steps = [(1 - now / past, now, past) for now, past in zip(left, [1.0, *left[:-1]], strict=True)]
        posterior = [beta * (1 - past) / (1 - now) for beta, now, past in steps]
        # The first posterior variance is 0, and the second one takes its place in logarithms.
        posterior[0] = posterior[1]
        self._constants = [
            Constants(
                signal=math.sqrt(now),
                noise=math.sqrt(1 - now),
                to_start=math.sqrt(1 / now),
                noise_to_start=math.sqrt(1 / now - 1),
                start_to_mean=beta * math.sqrt(past) / (1 - now),
                state_to_mean=(1 - past) * math.sqrt(1 - beta) / (1 - now),
                least_log_variance=math.log(variance),
                most_log_variance=math.log(beta),
                fixed_log_variance=math.log(beta if index else variance),
            )
            for index, ((beta, now, past), variance) in enumerate(zip(steps, posterior, strict=True))
        ]
        self._table = torch.tensor(self._constants, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Constants:
        return self._constants[index]

    def at(self, index_X: Tensor) -> Constants:
        """Constants (X, 1) fp32 of the steps `index_X` int64."""
        table = self._table.to(index_X.device)[index_X].float()
        return Constants(*table.unsqueeze(-2).unbind(-1))

    def loss(self, predicted_X2K: Tensor, data_XK: Tensor, noise_XK: Tensor, index_X: Tensor) -> Tensor:
        """Loss (X,) of noise and variances that a network predicts in the states of the steps `index_X`.

        The squared error of the noise, and for the variances alone the bound on the likelihood, in bits per channel.
        """
        noise, raw = predicted_X2K.chunk(2, dim=-1)
        constants = self.at(index_X)
        x, log_variance = constants.noisy(data_XK, noise_XK), constants.log_variance(raw)
        mean, true_mean = constants.mean(x, noise.detach()), constants.mean_of(x, data_XK)
        excess = log_variance - constants.least_log_variance
        squares = (true_mean - mean).square() * (-log_variance).exp()
        divergence_X = 0.5 * (excess - 1 + (-excess).exp() + squares).mean(-1)
        likelihood_X = _discretised_log_likelihood(data_XK, mean, 0.5 * log_variance).mean(-1)
        bound_X = torch.where(index_X == 0, -likelihood_X, divergence_X) / math.log(2)
        return (noise - noise_XK).square().mean(-1) + bound_X


def _discretised_log_likelihood(data: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability of the bin around a value; the bins of the outer values are open."""
    sharpness = (-log_deviation).exp()
    upper = torch.special.ndtr(sharpness * (data - mean + _HALF_BIN))
    lower = torch.special.ndtr(sharpness * (data - mean - _HALF_BIN))
    share = torch.where(data > _OUTER, 1 - lower, torch.where(data < -_OUTER, upper, upper - lower))
    return share.clamp_min(_LEAST_SHARE).log()


@cache
def _training_signal() -> tuple[float, ...]:
    """Share of the data's variance in the state of every training step."""

    def kept(share: float) -> float:
        return math.cos((share + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2

    left, total = [], 1.0
    for step in range(TRAINING_STEPS):
        total *= 1 - min(1 - kept((step + 1) / TRAINING_STEPS) / kept(step / TRAINING_STEPS), _MOST_NOISE)
        left.append(total)
    return tuple(left)


def spaced_numbers(steps: int, last: int = LAST_NUMBER) -> tuple[int, ...]:
    """Numbers of `steps` training steps in 0..last, evenly rounded, in rising order."""
    stride, at, numbers = last / (steps - 1), 0.0, []
    for _ in range(steps):
        numbers.append(round(at))
        at += stride
    return tuple(numbers)


@cache
def process_of(steps: int, last: int = LAST_NUMBER) -> Process:
    """Process of `steps` steps from the training step `last` on."""
    return Process(spaced_numbers(steps, last))


@cache
def training_process() -> Process:
    """Process of all training steps."""
    return Process(range(TRAINING_STEPS))


def denoise(
    start: Tensor,
    process: Process,
    *,
    predict: Callable[[Tensor, int], tuple[Tensor, Tensor | float]],
    normals: Iterator[Tensor],
    temperature: float = 1.0,
    hold: Callable[[Tensor, int], Tensor] | None = None,
) -> Tensor:
    """Return the data fp32 at the end of the process that begins with the noise `start`.

    `predict` gives the noise in a state and the log-variance of the state before, at the index of a step; `normals`
    gives the noise of each step. The last one is drawn, as in the official code, and not added. `hold` replaces
    what is known of a state before a step.
    """
    x = start
    for index in reversed(range(len(process))):
        x = x if hold is None else hold(x, index)
        noise, log_variance = predict(x, index)
        x, drawn = process[index].mean(x, noise), next(normals)
        if index > 0:
            deviation = math.exp(0.5 * log_variance) if isinstance(log_variance, float) else (0.5 * log_variance).exp()
            x = x + deviation * drawn * temperature
    return x
