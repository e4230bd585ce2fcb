"""Masked generation in random order: which tokens every pass predicts, and how strongly it is guided.

The tokens of an image have an order of their own, drawn with the noise: its first ones stay masked longest. A pass
predicts the last ones of those that are still masked, and sees all that are not.

Shapes   B images, N tokens, n tokens of one pass, k tokens known before it, K latent channels
Source   MAR (arXiv:2406.11838) section 3.4; behaviour of LTH14/mar at fe470ac
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from arvbench.adapters.latents.diffusion import LAST_NUMBER, training_process
from arvbench.adapters.latents.sampler import LatentSettings, TrainingPass
from arvbench.errors import UserError

MASK_RATE_MEAN, MASK_RATE_DEVIATION = 1.0, 0.25
"""Of the normal distribution from which training draws the share of masked tokens; it is cut off at the least rate of
the model and at 1."""


class MaskedSettings(LatentSettings):
    """Settings of masked generation; `cfg` is the scale of guidance in the last pass."""

    num_steps: int = Field(ge=2, le=1000, description="steps of the diffusion of a token; each evaluates the head once")
    num_iter: int = Field(ge=1, le=65536, description="passes over the map, each of which predicts some of its tokens")
    cfg_schedule: Literal["linear", "constant"] = Field(
        default="linear", description="linear: guidance grows with the share of known tokens; constant: cfg everywhere"
    )
    temperature: float = Field(default=1.0, ge=0, le=100, description="factor of the noise that every step adds")
    last_number: int = Field(
        default=LAST_NUMBER, ge=1, le=LAST_NUMBER, description="number of the noisiest of the 1,000 training steps used"
    )


@dataclass(frozen=True, slots=True)
class MaskedPass:
    """Numbers of tokens of one pass."""

    total: int
    known: int
    """Before the pass."""
    predicted: int

    @property
    def masked_after(self) -> int:
        """Tokens that stay masked: the first ones of the order."""
        return self.total - self.known - self.predicted

    def strength(self, settings: MaskedSettings, cfg: float) -> float:
        """Scale of guidance; the official code counts one masked token where the last pass leaves none."""
        share = (self.total - max(self.masked_after, 1)) / self.total
        return 1 + (cfg - 1) * share if settings.cfg_schedule == "linear" else cfg

    def known_of(self, order_BN: Tensor) -> Tensor:
        """Places (B, k) int64 of the tokens that are known before the pass, in raster order."""
        return order_BN[:, self.total - self.known :].sort(dim=1).values

    def masked_of(self, order_BN: Tensor) -> Tensor:
        """Places (B, n) int64 of all tokens that are masked before the pass, in raster order."""
        return order_BN[:, : self.total - self.known].sort(dim=1).values

    def predicted_of(self, order_BN: Tensor) -> Tensor:
        """Places (B, n) int64 of the tokens that the pass predicts, in raster order."""
        return order_BN[:, self.masked_after : self.total - self.known].sort(dim=1).values


@cache
def passes_of(total: int, count: int) -> tuple[MaskedPass, ...]:
    """Split `total` tokens into `count` passes by the cosine rule. Raises UserError where one would predict nothing."""
    passes, masked = [], total
    for number in range(count):
        rule = math.floor(total * math.cos(math.pi / 2 * (number + 1) / count))
        after = max(1, min(masked - 1, rule)) if number < count - 1 else 0
        passes.append(MaskedPass(total, total - masked, masked - after))
        masked = after
    if any(done.predicted < 1 for done in passes):
        raise UserError(f"{count} passes over {total} tokens: some would predict none of them; ask for fewer passes")
    return tuple(passes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionPass(TrainingPass):
    """Noise and variances (B, L, 2K) fp32 that the head predicts, and the tokens that count in the loss."""

    predicted: Tensor
    data_BLK: Tensor
    noise_BLK: Tensor
    numbers_BL: Tensor
    """Steps of the diffusion, int64."""
    counted_BL: Tensor

    def loss(self) -> Tensor:
        """Return the mean loss of the tokens that count, scalar."""
        loss_BL = training_process().loss(self.predicted, self.data_BLK, self.noise_BLK, self.numbers_BL)
        return (loss_BL * self.counted_BL).sum() / self.counted_BL.sum()


def at(tokens_BNX: Tensor, places_Bn: Tensor) -> Tensor:
    """Vectors (B, n, X) of the tokens at these places of every image."""
    return tokens_BNX.gather(1, places_Bn.unsqueeze(-1).expand(-1, -1, tokens_BNX.shape[-1]))


def put(tokens_BNX: Tensor, places_Bn: Tensor, values_BnX: Tensor) -> Tensor:
    """Return a copy of the tokens with those at these places replaced."""
    return tokens_BNX.scatter(1, places_Bn.unsqueeze(-1).expand_as(values_BnX), values_BnX)


def marked(order_BN: Tensor, count: int) -> Tensor:
    """Mask (B, N) of the first `count` tokens of every order."""
    return torch.zeros_like(order_BN, dtype=torch.bool).scatter(1, order_BN[:, :count], True)


def random_orders(batch: int, total: int, generator: torch.Generator) -> Tensor:
    """Draw an order (B, N) int64 per image for training, on the CPU."""
    return torch.rand(batch, total, generator=generator).argsort(dim=1)


def masked_count(total: int, least_rate: float, generator: torch.Generator) -> int:
    """Draw the number of masked tokens of a training pass: one for the whole batch."""
    normal = torch.distributions.Normal(MASK_RATE_MEAN, MASK_RATE_DEVIATION)
    limits = normal.cdf(torch.tensor([least_rate, 1.0]))
    u = torch.rand((), generator=generator)
    rate = float(normal.icdf(limits[0] + u * (limits[1] - limits[0])))
    return min(total, math.ceil(total * rate))
