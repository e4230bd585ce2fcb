"""NAR: next-neighbour prediction; a pass draws one anti-diagonal of the token map, a wavefront from the top left.

Specific to NAR: two output heads. The right head reads the residual stream before the last block, the below head
(`medusa_*` in the official names) after it. A token's logits average the right head of its left neighbour and the below
head of its upper neighbour; in the first row or column only one of them exists. The class token serves as both
neighbours of the first token. 31 passes draw 16x16 tokens; attention is bidirectional inside an anti-diagonal.

Shapes   R forward rows, n tokens fed, l tokens drawn, V codebook entries
Source   NAR (arXiv:2503.10696); behaviour of ThisisBillhe/NAR at 225c1fb
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import KVCache
from arvbench.adapters.common.linear import PackableLinear
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.token_grid.llama import DEMO_SIZES, SIZES, Llama, LlamaConfig, RMSNorm
from arvbench.adapters.token_grid.passes import LEARNT, Pass
from arvbench.adapters.token_grid.sampler import (
    DEMO_TOKENIZER,
    TokenGridSampler,
    TokenGridSettings,
    official_checkpoint,
)
from arvbench.adapters.tokenizers.vq import VqConfig
from arvbench.kernels.dispatch import KernelSet


@dataclass(frozen=True, slots=True, kw_only=True)
class NarConfig(LlamaConfig):
    """Constructor arguments of the transformer under their official names."""

    @property
    def blocks(self) -> int:
        return self.n_layer + 1

    @property
    def heads_out(self) -> int:
        return 2


class Nar(Llama):
    """The transformer; state-dict names equal the official files'."""

    def __init__(self, config: NarConfig) -> None:
        super().__init__(config)
        self.medusa_norm = RMSNorm(config.dim, config.norm_eps)
        self.medusa_output = PackableLinear(config.dim, config.vocab_size, bias=False)

    def forward(
        self,
        x_RnC: Tensor,
        rope_nP2: Tensor,
        kernels: KernelSet,
        *,
        cache: KVCache | None = None,
        mask_lT: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Logits (R, n, V) fp32 of the right and of the below head."""
        right_RnC = x_RnC
        for layer, block in enumerate(self.layers):
            right_RnC, x_RnC = x_RnC, block(x_RnC, rope_nP2, kernels, layer=layer, cache=cache, mask_lT=mask_lT)
        right_RnV = self.output(self.norm(right_RnC)).float()
        return right_RnV, self.medusa_output(self.medusa_norm(x_RnC)).float()


class Neighbours(NamedTuple):
    """Sources of each prediction: indices of the neighbours among the tokens fed, and head weights (0, 1/2 or 1)."""

    left_l: Tensor
    above_l: Tensor
    left_weight_l1: Tensor
    above_weight_l1: Tensor


def neighbours(feeds: Sequence[int], draws: Sequence[int], grid: int, device: torch.device) -> Neighbours:
    """Find the left and the upper neighbour of every token in `draws` among `feeds`."""
    at = {position: index for index, position in enumerate(feeds)}
    left, above, weights = [], [], []
    for position in draws:
        row, column = divmod(position, grid)
        # The class token is both the left and the upper neighbour of the first token.
        has_left, has_above = column > 0 or position == 0, row > 0 or position == 0
        left.append(at[position - 1 if position else LEARNT] if has_left else 0)
        above.append(at[position - grid if position else LEARNT] if has_above else 0)
        total = has_left + has_above
        weights.append((has_left / total, has_above / total))
    left_weight, above_weight = torch.tensor(weights, device=device).unsqueeze(-1).unbind(1)
    return Neighbours(torch.tensor(left, device=device), torch.tensor(above, device=device), left_weight, above_weight)


class NarSampler(TokenGridSampler):
    """NAR behind the sampling interface. `cfg_interval` counts the tokens drawn before a pass."""

    family: ClassVar = "nar"
    transformer_class: ClassVar = Nar
    draws_one_by_one: ClassVar = True

    @staticmethod
    def passes(config: LlamaConfig) -> list[Pass]:
        grid, drawn = config.grid, 0
        passes: list[Pass] = []
        for distance in range(2 * grid - 1):
            rows = range(max(0, distance - grid + 1), min(distance, grid - 1) + 1)
            draws = tuple(row * grid + distance - row for row in rows)
            feeds = passes[-1].draws if passes else (LEARNT,)
            passes.append(Pass(kind="wavefront", feeds=feeds, draws=draws, clock=drawn or None))
            drawn += len(draws)
        return passes

    @staticmethod
    def unfed(config: LlamaConfig) -> tuple[int, ...]:
        # The last token predicts nothing, but the official training pass reads it.
        return (config.block_size - 1,)

    @cached_property
    def _neighbours(self) -> list[Neighbours]:
        """Neighbours for every pass; the last entry is for the training pass."""
        grid, plan = self.spec.transformer.grid, self.plan
        with torch.inference_mode(False):  # see `plan`
            steps = [neighbours(p.feeds, p.draws, grid, self.device) for p in plan.passes]
            drawn = [position for p in plan.passes for position in p.draws]  # `order_N`, without asking its device
            return [*steps, neighbours(plan.trained, drawn, grid, self.device)]

    def predict(self, heads: tuple[Tensor, ...], step: int | None) -> Tensor:
        right_RnV, below_RnV = heads
        at = self._neighbours[-1 if step is None else step]
        return right_RnV[:, at.left_l] * at.left_weight_l1 + below_RnV[:, at.above_l] * at.above_weight_l1


_SOURCE_B = "ThisisBillhe/NAR NAR-images/GETTING_STARTED.md and autoregressive/sample/sample_c2i_ddp.py at 225c1fb"
_SOURCE = "NAR (arXiv:2503.10696) table 1, caption; the repository states settings for NAR-B only"


def _official(size: str, owner: str) -> ModelSpec:
    return ModelSpec(
        name=f"nar-{size}",
        sampler=NarSampler,
        transformer=NarConfig(**SIZES[size]),
        tokenizer=VqConfig(),
        settings=TokenGridSettings(cfg=2.0),
        settings_source=_SOURCE_B if size == "b" else _SOURCE,
        checkpoint=official_checkpoint(f"{owner}/NAR-imagenet-256-{size.upper()}", "last_version.pt"),
    )


NAR_B = _official("b", "chenfeng1271")
NAR_M = _official("m", "yefly")
NAR_L = _official("l", "chenfeng1271")
NAR_XL = _official("xl", "yefly")
NAR_XXL = _official("xxl", "chenfeng1271")

DEMO = ModelSpec(
    name="demo/nar",
    sampler=NarSampler,
    transformer=NarConfig(n_layer=3, **DEMO_SIZES),
    tokenizer=DEMO_TOKENIZER,
    settings=TokenGridSettings(cfg=1.5),
    settings_source="chosen on the trained demo model",
    demo=True,
)
