"""What is particular to the training of each demo model: its settings, and the stages its family trains in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from arvbench.adapters.sampler import Sampler
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.training.tokenizer import TokenizerTraining
from arvbench.harness.training.transformer import Loss, TransformerTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTraining:
    """How a demo model is trained; part of its record."""

    seed: int = 0
    threads: int = 1
    tokenizer: TokenizerTraining = field(default_factory=TokenizerTraining)
    transformer: TransformerTraining = field(default_factory=TransformerTraining)
    refinement: TransformerTraining | None = None
    """Of a second stage that trains mask refinement alone (HMAR)."""
    shifts: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (-1, -1))
    """Copies of every training image, moved by (rows, columns) pixels."""


# Token-grid transformers have no adaLN: the class reaches a token through attention only. They start from larger
# weights, and take more images to learn it.
_TOKEN_GRID = DemoTraining(
    tokenizer=TokenizerTraining(epochs=3),
    transformer=TransformerTraining(epochs=16, initial_std=0.05),
    shifts=((0, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)),
)

DEMO_TRAININGS = {
    "demo/var": DemoTraining(),
    "demo/mvar": DemoTraining(),
    "demo/hmar": DemoTraining(refinement=TransformerTraining(epochs=6)),
    "demo/flexvar": DemoTraining(
        tokenizer=TokenizerTraining(epochs=5, sides=(8, 8, 8, 8, 8, 8, 2, 3, 4, 6)),
        transformer=TransformerTraining(initial_std=0.05),
    ),
    "demo/nar": _TOKEN_GRID,
    "demo/llamagen": _TOKEN_GRID,
    "demo/par": _TOKEN_GRID,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One pass of training over the data."""

    title: str
    training: TransformerTraining
    loss: Loss | None = None
    """None: the sampler's own."""
    trained: Sequence[str] | None = None
    """Names of the parameters that change; None: all."""


def stages(sampler: Sampler, settings: DemoTraining) -> list[Stage]:
    """The stages that the family of `sampler` is trained in."""
    special = {"hmar": _hmar, "flexvar": _flexvar}.get(sampler.spec.family)
    return (
        [Stage(title="transformer", training=settings.transformer)] if special is None else special(sampler, settings)
    )


def settings_for_tokens(sampler: Sampler) -> SamplingSettings:
    """The settings under which training images are encoded, once."""
    if sampler.spec.family == "flexvar":
        return _every_scale(sampler)
    return sampler.spec.settings


def _hmar(sampler: Sampler, settings: DemoTraining) -> list[Stage]:
    """Next-scale prediction first; then mask refinement, with everything else frozen (HMAR section 3.4)."""
    from arvbench.adapters.hmar.sampler import HmarSampler

    assert isinstance(sampler, HmarSampler) and settings.refinement is not None
    return [
        Stage(
            title="transformer",
            training=settings.transformer,
            loss=lambda tokens, labels, generator: sampler.next_scale_loss(tokens, labels, generator=generator),
            trained=sampler.next_scale_parameters(),
        ),
        Stage(
            title="refinement",
            training=settings.refinement,
            loss=lambda tokens, labels, generator: sampler.masked_loss(tokens, labels, generator=generator),
            trained=sampler.refinement_parameters(),
        ),
    ]


def _flexvar(sampler: Sampler, settings: DemoTraining) -> list[Stage]:
    """Every step draws a list of scales, so that the model works with lists it has not seen (FlexVAR section 3.3)."""
    from arvbench.adapters.flexvar.sampler import FlexVarSampler

    assert isinstance(sampler, FlexVarSampler)
    every = _every_scale(sampler)

    def loss(tokens: Sequence[Tensor], labels: Tensor, generator: torch.Generator | None) -> Tensor:
        chosen = sampler.spec.settings if generator is None else sampler.random_scales(generator)
        sides = sampler.sides(every)
        picked = [tokens[sides.index(side)] for side in sampler.sides(chosen)]
        return sampler.loss(picked, labels, settings=chosen, generator=generator)

    return [Stage(title="transformer", training=settings.transformer, loss=loss)]


def _every_scale(sampler: Sampler) -> SamplingSettings:
    """All square scales up to the largest. FlexVAR's scales are independent: every list is a part of this one."""
    largest = sampler.spec.transformer.patch_nums[-1]
    return sampler.spec.settings.model_copy(update={"scales": tuple(range(1, largest + 1))})
