"""PAR: parallel autoregressive decoding; one pass draws distant tokens together.

Specific to PAR: the token map is cut into A regions (4 or 16). The first token of every region is drawn
sequentially; then each parallel pass reads the previous group and draws the next token of all regions. The first
parallel pass has only one token to read, and A - 1 learnt special tokens complete its group. Attention is bidirectional
inside a group.

Source   PAR (arXiv:2412.15119); behaviour of Epiphqny/PAR at d96acea
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.token_grid.groups import GroupedLlama
from arvbench.adapters.token_grid.llama import DEMO_SIZES, SIZES, LlamaConfig
from arvbench.adapters.token_grid.passes import LEARNT, Pass
from arvbench.adapters.token_grid.sampler import (
    DEMO_TOKENIZER,
    TokenGridSampler,
    TokenGridSettings,
    official_checkpoint,
)
from arvbench.adapters.tokenizers.vq import VqConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ParConfig(LlamaConfig):
    """Constructor arguments of the transformer under their official names."""

    ar_token_num: int
    """A: number of regions, a square; also the number of sequential passes and the tokens per parallel pass."""

    @property
    def first_tokens(self) -> int:
        """Tokens drawn one by one before the first group."""
        return self.ar_token_num

    @property
    def spe_token_num(self) -> int:
        """Number of special tokens."""
        return self.ar_token_num - 1


class ParSampler(TokenGridSampler):
    """PAR behind the sampling interface.

    `cfg_interval` counts tokens from 0 in each phase (sequential, parallel), so the parallel phase resumes guidance.
    """

    family: ClassVar = "par"
    transformer_class: ClassVar = GroupedLlama

    @staticmethod
    def passes(config: ParConfig) -> list[Pass]:
        regions = config.ar_token_num
        groups = _groups(config)
        first = groups[0]
        passes = [Pass(kind="token", feeds=(LEARNT,), draws=first[:1], clock=None)]
        passes += [
            Pass(kind="token", feeds=(first[i],), draws=(first[i + 1],), clock=i) for i in range(config.spe_token_num)
        ]
        feeds = (first[-1], *[LEARNT] * config.spe_token_num)
        for number, group in enumerate(groups[1:]):
            passes.append(Pass(kind="parallel", feeds=feeds, draws=group, clock=number * regions))
            feeds = group
        return passes

    @staticmethod
    def unfed(config: ParConfig) -> tuple[int, ...]:
        # The official training pass reads all tokens except the last, although the last group predicts nothing.
        return _groups(config)[-1][:-1]


def _groups(config: ParConfig) -> list[tuple[int, ...]]:
    """Raster positions per group, one token of every region; groups and regions are in raster order."""
    regions, grid = math.isqrt(config.ar_token_num), config.grid
    side = grid // regions
    return [
        tuple((si * side + gi) * grid + sj * side + gj for si in range(regions) for sj in range(regions))
        for gi in range(side)
        for gj in range(side)
    ]


_SOURCE = (
    "Epiphqny/PAR README and autoregressive/sample/sample_c2i_ddp.py at d96acea; evaluation resizes its 384 px images "
    "to 256 px (bicubic), which is no part of sampling"
)


def _official(size: str, regions: int, cfg: float) -> ModelSpec:
    return ModelSpec(
        name=f"par-{size}-{regions}x-384",
        sampler=ParSampler,
        transformer=ParConfig(**SIZES[size], block_size=24 * 24, ar_token_num=regions),
        tokenizer=VqConfig(),
        settings=TokenGridSettings(cfg=cfg),
        settings_source=_SOURCE,
        checkpoint=official_checkpoint("Epiphqny/PAR", f"PAR-{size.upper()}-{regions}x.pt"),
    )


PAR_XL_4X_384 = _official("xl", 4, 1.5)
PAR_XXL_4X_384 = _official("xxl", 4, 1.435)
PAR_3B_4X_384 = _official("3b", 4, 1.345)
PAR_3B_16X_384 = _official("3b", 16, 1.5)

DEMO = ModelSpec(
    name="demo/par",
    sampler=ParSampler,
    transformer=ParConfig(n_layer=4, ar_token_num=4, **DEMO_SIZES),
    tokenizer=DEMO_TOKENIZER,
    settings=TokenGridSettings(cfg=1.5),
    settings_source="chosen on the trained demo model",
    demo=True,
)
