"""FlexVAR: next-scale prediction without residuals, on any list of scales.

Specific to FlexVAR: every scale predicts the whole token map at its resolution, and the next scale reads only its
resized codes; only the last scale is decoded. Position embeddings are one trained map, averaged to each scale's size,
and there is no scale embedding. The scales are therefore a sampling setting: more or fewer steps, larger images, other
aspect ratios. Attention and its KV cache are VAR's.

Shapes   B images, R forward rows, S scales, l tokens of one scale, L of all scales, C width, K code channels,
         V codebook entries, ph pw sides of one scale's token map
Source   FlexVAR (arXiv:2502.20313); behaviour of jiaosiyu1999/FlexVAR at 04462cb
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from arvbench.adapters.drawing import Distribution, sample_rule
from arvbench.adapters.flexvar.scale_lists import OFFICIAL_SCALES, Scales, parse_scales, random_scales
from arvbench.adapters.flexvar.tokenizer import FlexVarTokenizer
from arvbench.adapters.next_scale.sampler import NextScaleSampler, ScaleRun
from arvbench.adapters.next_scale.transformer import (
    DEMO_SIZES,
    NextScaleConfig,
    NextScaleTransformer,
    block_causal_bias,
    levels,
)
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings, Uint8Rule
from arvbench.adapters.tokenizers.tokenizer import Sides, area_tokens
from arvbench.adapters.tokenizers.vq import VqConfig
from arvbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexVarConfig(NextScaleConfig):
    """Constructor arguments under their official names, and sizes fixed in the official code."""

    vocab_size: int = 8912
    """V; not 8192."""
    position_side: int = 32
    """Side of the position map."""
    trained_sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 24, 32)
    """Scales with other sides use greedy decoding."""


class FlexVarSettings(SamplingSettings):
    """`cfg` is the final value of the strength t in (1 + t) cond - t uncond, or a constant (`cfg_style`).

    The ramp reaches `cfg` at the tenth step of longer lists and continues beyond it.
    """

    uint8_rule: Uint8Rule = "round"
    scales: Scales | None = None
    """Sides of the token maps in the order of generation; None means the configured ones, also in training."""
    max_pn: int | None = Field(default=None, ge=1)
    """Scales with a longer side use greedy decoding under full guidance; None sets no limit."""
    invalid_ids: tuple[int, ...] = ()
    """Tokens that are never drawn."""
    cfg_style: Literal["ramp", "constant"] = "ramp"
    """ramp: t grows from 0 at the first scale, as in VAR. constant: uncond + cfg (cond - uncond) at every scale, as in
    LlamaGen (officially `used_llamagen_cfg`); then t = cfg - 1, and 1, not 0, samples the conditional model.
    """


class FlexVar(NextScaleTransformer):
    """The transformer; state-dict names equal the official files'."""

    config: FlexVarConfig

    def add_positions(self) -> None:
        side = self.config.position_side
        self.pos_1LC = nn.Parameter(torch.empty(1, self.config.embed_dim, side, side))

    def position_buffers(self) -> dict[str, Tensor]:
        return {"attn_bias_for_masking": block_causal_bias(levels(self.config.sides))}

    def positions(self, sides: Sides) -> Tensor:
        """Return the position map (1, L, C), averaged to the size of every scale (repeated for larger scales)."""
        return torch.cat([area_tokens(self.pos_1LC, side) for side in sides], dim=1)

    def training_bias(self, sides: Sides) -> Tensor:
        return super().training_bias(sides) if sides == self.config.sides else block_causal_bias(levels(sides))

    def adapt_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace the file's mask, which has the scales of the last training step, by our own."""
        ours = self.position_buffers()
        return {name: ours.get(name, tensor) for name, tensor in tensors.items()}

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name, where small random numbers would be wrong.

        The position map holds sines of the row in even channels and cosines of the column in odd ones, with
        wavelengths from 2 pi to 20000 pi.
        """
        side, width = self.config.position_side, self.config.embed_dim
        place_s1 = torch.arange(side, dtype=torch.float32).unsqueeze(1)
        angle_sf = place_s1 * 10000.0 ** -(torch.arange(0, width, 2) / width)
        sine_fss = angle_sf.sin().T.unsqueeze(2).expand(-1, -1, side)
        cosine_fss = angle_sf.cos().T.unsqueeze(1).expand(-1, side, -1)
        return {"pos_1LC": torch.stack((sine_fss, cosine_fss), dim=1).flatten(0, 1).unsqueeze(0)}


class FlexVarSampler(NextScaleSampler):
    """FlexVAR behind the sampling interface.

    The head stays in fp32 for any dtype, as in the other next-scale models. The official head runs in half precision
    like the other modules, where rounded logits tie.
    """

    family: ClassVar = "flexvar"
    transformer_class: ClassVar = FlexVar
    tokenizer_class: ClassVar = FlexVarTokenizer

    @property
    def tokenizer(self) -> FlexVarTokenizer:
        return cast(FlexVarTokenizer, self._modules["tokenizer"])

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        cls.sides_of(spec.transformer, settings)
        invalid = set(cast(FlexVarSettings, settings).invalid_ids)
        vocab_size = spec.tokenizer.vocab_size
        if outside := [i for i in invalid if not 0 <= i < vocab_size]:
            raise UserError(f"invalid_ids has {outside[0]}; {spec.name} has tokens 0..{vocab_size - 1}")
        if len(invalid) == vocab_size:
            raise UserError(f"invalid_ids has all {vocab_size} tokens of {spec.name}: nothing is left to draw")

    @classmethod
    def sides_of(cls, config: FlexVarConfig, settings: SamplingSettings) -> Sides:
        scales = cast(FlexVarSettings, settings).scales
        return config.sides if scales is None else parse_scales(scales, first=config.sides[0])

    def rows(self, settings: SamplingSettings, batch: int) -> int:
        conditional = 1 if cast(FlexVarSettings, settings).cfg_style == "constant" else 0
        return batch if settings.cfg == conditional and not self.official else 2 * batch

    def distribution(self, step: Step, scale: int, run: ScaleRun) -> Distribution:
        settings = cast(FlexVarSettings, run.call.settings)
        constant, strength = settings.cfg_style == "constant", None
        if run.call.guided:
            full = constant or _beyond(step.map_side, settings.max_pn)
            strength = settings.cfg if full else self.guidance(scale, run.scales, settings)
        rule = sample_rule(
            self.top_k(step.map_side, settings), settings.top_p, mix="interpolate" if constant else "extrapolate"
        )
        return Distribution(rule=rule, strength=strength, excluded=settings.invalid_ids)

    def guidance(self, scale: int, scales: int, settings: SamplingSettings) -> float:
        """VAR's ramp, with the slope for ten scales in longer lists, where strengths then exceed cfg."""
        return settings.cfg * scale / min(scales - 1, 9)

    def top_k(self, side: tuple[int, int], settings: FlexVarSettings) -> int | None:
        """Return 1 for a scale with a side beyond `max_pn` or outside the trained sides, else the setting.

        Both sides of an oblong map must fit; this extends the official rule, which covers only squares.
        """
        trained = self.spec.transformer.trained_sides
        return 1 if _beyond(side, settings.max_pn) or any(pn not in trained for pn in side) else settings.top_k

    def random_scales(self, generator: torch.Generator) -> FlexVarSettings:
        """Return the official settings with scales drawn at random for one training step."""
        scales = random_scales(self.spec.transformer.patch_nums, generator)
        return cast(FlexVarSettings, self.spec.settings).model_copy(update={"scales": scales})


def _beyond(side: tuple[int, int], max_pn: int | None) -> bool:
    return max_pn is not None and max(side) > max_pn


def _official(depth: int, epoch: int) -> ModelSpec:
    return ModelSpec(
        name=f"flexvar-d{depth}",
        sampler=FlexVarSampler,
        transformer=FlexVarConfig(depth=depth, embed_dim=64 * depth, num_heads=depth),
        tokenizer=VqConfig(codebook_size=8912, codebook_embed_dim=32),
        settings=FlexVarSettings(cfg=2.5, top_k=900, top_p=0.95, scales=OFFICIAL_SCALES["9-steps"], max_pn=16),
        settings_source="jiaosiyu1999/FlexVAR at 04462cb, README command of the 256x256 evaluation and eval_c2i.py "
        "(top_p); its table says 10 steps",
        checkpoint=Checkpoint(
            transformer_file=f"FlexVARd{depth}-epo{epoch}.pth",
            tokenizer_file="FlexVAE.pth",
            hub_repo="jiaosiyu1999/FlexVAR",
            transformer_nesting=(("trainer", "var_wo_ddp"),),
            tokenizer_nesting=(("model",),),
        ),
    )


FLEXVAR_D16 = _official(16, 179)
FLEXVAR_D20 = _official(20, 249)
FLEXVAR_D24 = _official(24, 349)

DEMO = ModelSpec(
    name="demo/flexvar",
    sampler=FlexVarSampler,
    transformer=FlexVarConfig(
        depth=4,
        embed_dim=96,
        num_heads=3,
        shared_aln=True,
        position_side=16,
        trained_sides=(1, 2, 3, 4, 5, 6, 7, 8),
        **DEMO_SIZES,
    ),
    tokenizer=VqConfig(
        codebook_size=256,
        codebook_embed_dim=16,
        z_channels=32,
        ch=32,
        encoder_ch_mult=(1, 1, 1),
        decoder_ch_mult=(1, 1, 1),
        num_res_blocks=1,
    ),
    settings=FlexVarSettings(cfg=0.5, top_p=0.98, max_pn=8),
    settings_source="chosen on the trained demo model",
    demo=True,
)
