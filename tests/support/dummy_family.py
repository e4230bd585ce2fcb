"""A newcomer's model family on the bare interface: one step draws a 4 x 4 map of colours for the class.

Shapes   B images, V = 8 colours, 16 tokens of one image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache.policy import CacheShape
from arvbench.adapters.call import StepOutput
from arvbench.adapters.sampler import ModelSizes, ModelSpec, Sampler, SamplingCall
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.kernels.dispatch import KernelSet

SIDE, PX = 4, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    classes: int = 3
    colours: int = 8


class Transformer(nn.Module):
    """Logits of every position, looked up by class; the last row is the null class."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.logits = nn.Embedding(config.classes + 1, SIDE * SIDE * config.colours)

    def forward(self, labels_B: Tensor) -> Tensor:
        return self.logits(labels_B).unflatten(1, (SIDE * SIDE, -1)).float()


class Tokenizer(nn.Module):
    """A palette: token -> RGB."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.palette = nn.Embedding(config.colours, 3)


class DummySampler(Sampler):
    family: ClassVar = "dummy-family"
    transformer_class: ClassVar = Transformer
    tokenizer_class: ClassVar = Tokenizer
    memory: ClassVar = ("nothing",)
    official_cache: ClassVar = "none"
    default_cache: ClassVar = "none"

    @classmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        config: Config = spec.transformer
        return ModelSizes(
            image_px=PX, num_classes=config.classes, vocab_size=config.colours, steps=1, tokens=SIDE * SIDE
        )

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        work = {"flops": 0, "bytes_moved": 0, "cache_bytes": 0, "cached_tokens": 0}
        tokens = {"new_tokens": SIDE * SIDE, "context_tokens": SIDE * SIDE}
        return [Step(index=0, kind="scale", side=(SIDE, SIDE), rows=batch, **tokens, **work)]

    def decode_flops(self, settings: SamplingSettings) -> int:
        return 0

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> CacheShape:
        size = {"layers": 0, "rows": batch, "heads": 1, "head_dim": 1, "capacity_tokens": 0}
        return CacheShape(dtype=self.dtype, device=self.device, **size)

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        (step,) = call.schedule.steps
        call.observer.step_begin(step)
        logits_BlV = self.modules()["transformer"](call.labels_R)
        tokens_Bl = call.draw(logits_BlV, step)
        call.observer.step_end(
            step, StepOutput(logits_pre_cfg=logits_BlV, logits=logits_BlV, tokens=tokens_Bl, state=tokens_Bl)
        )
        return [tokens_Bl], tokens_Bl

    def decode_state(self, state: Tensor) -> Tensor:
        colours_Bl3 = self.modules()["tokenizer"].palette(state).float().sigmoid()
        return F.interpolate(colours_Bl3.transpose(1, 2).unflatten(2, (SIDE, SIDE)), size=(PX, PX))

    def tokens_of(self, images: Tensor, settings: SamplingSettings) -> tuple[Tensor, ...]:
        pixels_Bl3 = F.interpolate((images + 1) / 2, size=(SIDE, SIDE)).flatten(2).transpose(1, 2)
        palette_V3 = self.modules()["tokenizer"].palette.weight.float().sigmoid()
        return (torch.cdist(pixels_Bl3, palette_V3.expand(len(images), -1, -1)).argmin(dim=-1),)

    def state_of(self, tokens: Sequence[Tensor], settings: SamplingSettings) -> Tensor:
        (tokens_Bl,) = tokens
        return tokens_Bl.to(self.device)

    def forced_logits(
        self, tokens: Sequence[Tensor], labels_B: Tensor, settings: SamplingSettings, kernels: KernelSet
    ) -> Tensor:
        return self.modules()["transformer"](labels_B)


SPEC = ModelSpec(
    name="dummy-of-a-family",
    sampler=DummySampler,
    transformer=Config(),
    tokenizer=Config(),
    settings=SamplingSettings(cfg=0),
    settings_source="made up",
    no_recipe="nobody has published it",
)
