"""Settings of a demo model's training, and the stages in which its transformer is trained.

A family needs functions here only when its training is more than its sampler's own loss on the official scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from arvbench.adapters.flexvar.sampler import FlexVarSampler
from arvbench.adapters.hmar.sampler import HmarSampler
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.training.tokenizer import TokenizerSettings
from arvbench.harness.training.transformer import Stage, TransformerSettings
from arvbench.harness.training.two_phases import TwoPhaseSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """Settings of the training of a demo model; part of its record."""

    seed: int = 0
    threads: int = 1
    tokenizer: TokenizerSettings | TwoPhaseSettings | str = field(default_factory=TokenizerSettings)
    """A name stands for the tokenizer that this demo model was shipped with."""
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    refinement: TransformerSettings | None = None
    """Settings of a second stage that trains mask refinement alone."""
    shifts: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (-1, -1))
    """Shifts (rows, columns) in pixels; each adds a copy of every training image."""


def own_loss(sampler: Sampler, settings: DemoSettings) -> list[Stage]:
    """Return one stage: all parameters, under the sampler's own loss."""

    def loss(tokens: Sequence[Tensor], labels: Tensor, generator: torch.Generator | None) -> Tensor:
        return sampler.loss(tokens, labels, generator=generator)

    return [Stage(title="transformer", settings=settings.transformer, loss=loss)]


def next_scale_then_refinement(sampler: HmarSampler, settings: DemoSettings) -> list[Stage]:
    """Return next-scale prediction, then mask refinement with everything else frozen (HMAR section 3.4)."""
    assert settings.refinement is not None

    def next_scale_loss(tokens: Sequence[Tensor], labels: Tensor, generator: torch.Generator | None) -> Tensor:
        return sampler.next_scale_loss(tokens, labels, generator=generator)

    def masked_loss(tokens: Sequence[Tensor], labels: Tensor, generator: torch.Generator | None) -> Tensor:
        return sampler.masked_loss(tokens, labels, generator=generator)

    return [
        Stage(
            title="transformer",
            settings=settings.transformer,
            loss=next_scale_loss,
            parameters=sampler.next_scale_parameters(),
        ),
        Stage(
            title="refinement",
            settings=settings.refinement,
            loss=masked_loss,
            parameters=sampler.refinement_parameters(),
        ),
    ]


def random_scales(sampler: FlexVarSampler, settings: DemoSettings) -> list[Stage]:
    """Return one stage that draws a list of scales per step, which generalises to unseen lists.

    It reads tokens of `every_scale` (FlexVAR section 3.3).
    """
    all_sides = sampler.sides(every_scale(sampler))

    def loss(tokens: Sequence[Tensor], labels: Tensor, generator: torch.Generator | None) -> Tensor:
        chosen = sampler.spec.settings if generator is None else sampler.random_scales(generator)
        picked = [tokens[all_sides.index(side)] for side in sampler.sides(chosen)]
        return sampler.loss(picked, labels, settings=chosen, generator=generator)

    return [Stage(title="transformer", settings=settings.transformer, loss=loss)]


def every_scale(sampler: Sampler) -> SamplingSettings:
    """Return FlexVAR's settings with every square scale up to the largest.

    Its scales are independent, so these tokens contain those of every other list.
    """
    largest = sampler.spec.transformer.patch_nums[-1]
    return sampler.spec.settings.model_copy(update={"scales": tuple(range(1, largest + 1))})


def official_scales(sampler: Sampler) -> SamplingSettings:
    """Return the official settings."""
    return sampler.spec.settings
