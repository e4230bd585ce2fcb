"""Sampling of families whose tokens form no map of the image: a sequence, in the order of generation.

Shapes   B images, R forward rows, l tokens of one pass, N tokens of an image, V codebook entries
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from arvbench.adapters.pixels import to_unit_range
from arvbench.adapters.sampler import ModelSizes, ModelSpec
from arvbench.adapters.sampling import Noise
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.token_grid.llama import LlamaConfig
from arvbench.adapters.token_grid.sampler import TokenGridSampler


class SequenceSampler(TokenGridSampler):
    """A model whose k-th input predicts its k-th token; its tokenizer's configuration has `image_px`."""

    token_map: ClassVar = False

    @classmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        config: LlamaConfig = spec.transformer
        return ModelSizes(
            image_px=spec.tokenizer.image_px,
            num_classes=config.num_classes,
            vocab_size=config.vocab_size,
            steps=len(cls.passes(config)),
            tokens=config.block_size,
        )

    def predict(self, heads: tuple[Tensor, ...], step: int | None) -> Tensor:
        (logits_RlV,) = heads
        return logits_RlV

    def decode_drawn(self, state: Tensor, noise: Noise) -> Tensor:
        return to_unit_range(self.tokenizer.decode(state, noise))

    def decode_state(self, state: Tensor) -> Tensor:
        return to_unit_range(self.tokenizer.decode(state))

    def tokens_of(self, images: Tensor, settings: SamplingSettings) -> tuple[Tensor, ...]:
        plan = self.plan_for(settings)
        ids_Bn = self.tokenizer.encode(images)[:, : len(plan.order_N)]
        tokens: tuple[Tensor, ...] = ids_Bn.split([len(p.draws) for p in plan.passes], dim=1)
        return tokens
