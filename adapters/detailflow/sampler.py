"""DetailFlow: tokens from coarse to fine; the first ones one by one, then groups with one pass each.

Specific to DetailFlow: tokens form no map. A model of N tokens draws the first group one by one, and then g = 8 tokens
per pass: 23, 39 or 71 passes for 128, 256 or 512 tokens. As in PAR, learnt special tokens complete the first group's
input; here they and all later tokens have rotary positions of their own, on a map of N/g x g slots. Fewer tokens give a
smaller, coarser picture (`tokens`). The official loop keeps no keys and values: every pass computes its prefix again.

Source   DetailFlow (arXiv:2505.21473); behaviour of ByteFlow-AI/DetailFlow at c5f06cd
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from pydantic import Field
from torch import Tensor

from arvbench.adapters.detailflow.tokenizer import DetailFlowTokenizer, DetailFlowTokenizerConfig
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.token_grid.groups import GroupedLlama
from arvbench.adapters.token_grid.llama import SIZES, LlamaConfig, map_table
from arvbench.adapters.token_grid.passes import LEARNT, Pass
from arvbench.adapters.token_grid.sampler import GuidedSettings
from arvbench.adapters.token_grid.sequence import SequenceSampler
from arvbench.errors import UserError


class DetailFlowSettings(GuidedSettings):
    """`cfg` must be above 1: the official loop cannot run without guidance."""

    cfg: float = Field(gt=1, description="scale of classifier-free guidance, above 1")
    gradual_cfg: bool = Field(default=False, description="let the scale fall from group to group")
    tokens: int | None = Field(
        default=None, ge=1, description="draw the first tokens only, for a smaller image; None draws all"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailFlowConfig(LlamaConfig):
    """Constructor arguments of the transformer under their official names; `block_size` is N."""

    group_size: int = 8
    causal_num: int | None = None
    """Tokens drawn one by one, a multiple of the group size; None means one group of them."""

    @property
    def first_tokens(self) -> int:
        """Tokens drawn one by one before the first group."""
        return self.causal_num or self.group_size

    @property
    def spe_token_num(self) -> int:
        """Number of special tokens; the official table holds as many."""
        return self.group_size - 1


class DetailFlowSampler(SequenceSampler):
    """DetailFlow behind the sampling interface."""

    family: ClassVar = "detailflow"
    transformer_class: ClassVar = GroupedLlama
    tokenizer_class: ClassVar = DetailFlowTokenizer
    memory: ClassVar = ("keys and values", "nothing")
    official_cache: ClassVar = "none"
    draws_one_by_one: ClassVar = True

    @staticmethod
    def passes(config: DetailFlowConfig) -> list[Pass]:
        first, size = config.first_tokens, config.group_size
        passes = [Pass(kind="token", feeds=(LEARNT,), draws=(0,), clock=None)]
        passes += [Pass(kind="token", feeds=(n - 1,), draws=(n,), clock=None) for n in range(1, first)]
        feeds = (first - 1, *[LEARNT] * config.spe_token_num)
        for start in range(first, config.block_size, size):
            draws = tuple(range(start, start + size))
            # Tokens behind the special ones have later positions than they were drawn at.
            rotary = tuple(range(start - 1, start - 1 + size))
            passes.append(Pass(kind="parallel", feeds=feeds, draws=draws, clock=None, rotary=rotary))
            feeds = draws
        return passes

    @staticmethod
    def position_table(config: DetailFlowConfig) -> Tensor:
        return map_table(config, config.block_size // config.group_size, config.group_size)

    @classmethod
    def tokens_drawn(cls, spec: ModelSpec, settings: SamplingSettings) -> int:
        return cast(DetailFlowSettings, settings).tokens or spec.tokens

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        config, count = spec.transformer, cls.tokens_drawn(spec, settings)
        if count > spec.tokens or (count > config.first_tokens and count % config.group_size):
            raise UserError(
                f"{spec.name} draws up to {config.first_tokens} tokens, or a multiple of {config.group_size} up to "
                f"{spec.tokens}: tokens {count} is neither"
            )

    def guidance(self, passes: Sequence[Pass], settings: SamplingSettings) -> list[float | None]:
        """Scale of every pass; with `gradual_cfg` it falls linearly over the groups, those not drawn included."""
        assert isinstance(settings, DetailFlowSettings)
        config = self.spec.transformer
        groups = config.block_size // config.group_size
        scales: list[float | None] = []
        for p in passes:
            falls = settings.gradual_cfg and p.kind == "parallel"
            share = (groups - p.draws[0] // config.group_size + 1) / (groups + 1) if falls else 1.0
            scales.append(settings.cfg * share)
        return scales

    def image_shape(self, settings: SamplingSettings) -> tuple[int, int]:
        config: DetailFlowTokenizerConfig = self.spec.tokenizer
        return (config.side_of(self.tokens_drawn(self.spec, settings)),) * 2


_SOURCE = "ByteFlow-AI/DetailFlow README and its sampling script at c5f06cd"


def _official(tokens: int, cfg: float) -> ModelSpec:
    name = f"DetailFlow-{tokens // 8}"
    file = f"checkpoints/{tokens}.pt"
    return ModelSpec(
        name=f"detailflow-l-{tokens}",
        sampler=DetailFlowSampler,
        transformer=DetailFlowConfig(**SIZES["l"], vocab_size=8192, block_size=tokens),
        tokenizer=DetailFlowTokenizerConfig(num_latent_tokens=tokens, enc_mlp=4304),
        settings=DetailFlowSettings(cfg=cfg),
        settings_source=_SOURCE,
        checkpoint=Checkpoint(
            transformer_file=file,
            tokenizer_file=file,
            hub_repo=f"ByteFlow-AI/{name}-GPT-L",
            tokenizer_repo=f"ByteFlow-AI/{name}",
            transformer_nesting=(("ema",), ("model",)),
            tokenizer_nesting=(("ema",), ("model",)),
        ),
    )


DETAILFLOW_L_128 = _official(128, 1.45)
DETAILFLOW_L_256 = _official(256, 1.5)
DETAILFLOW_L_512 = _official(512, 1.32)

DEMO = ModelSpec(
    name="demo/detailflow",
    sampler=DetailFlowSampler,
    transformer=DetailFlowConfig(
        dim=96, n_layer=4, n_head=3, block_size=16, num_classes=10, vocab_size=128, multiple_of=32, group_size=4
    ),
    tokenizer=DetailFlowTokenizerConfig(
        num_latent_tokens=16,
        codebook_size=128,
        group_size=4,
        patch_size=8,
        positions=16,
        enc_dim=72,
        enc_heads=3,
        enc_layers=2,
        dec_dim=72,
        dec_heads=3,
        dec_layers=3,
    ),
    settings=DetailFlowSettings(cfg=1.5),
    settings_source="chosen on the trained demo model",
    demo=True,
)
