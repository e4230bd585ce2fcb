"""FlowAR behind the sampling interface: five scales, each denoised by a head under conditions from earlier scales.

Scales are independent latents: nothing accumulates, the last one is decoded. The transformer runs once per scale, the
head once per step of the solver: these are the inner passes.

Shapes   B images, R forward rows (conditional, then unconditional), l tokens of one scale, L of all scales, K latent
         channels, C width
Source   FlowAR (arXiv:2412.15205); behaviour of wangqiang9/FlowAR at 5745a96
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from arvbench.adapters.cache.policy import CacheShape, KVCache
from arvbench.adapters.call import SamplingCall, StepOutput
from arvbench.adapters.flowar.solver import evaluation_times, solve
from arvbench.adapters.flowar.transformer import FlowAr, FlowArConfig, resized
from arvbench.adapters.latents.blocks import Turn, block_causal, time_features
from arvbench.adapters.latents.sampler import (
    LatentSampler,
    LatentSettings,
    TrainingDraw,
    TrainingPass,
    VelocityPass,
)
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.sampling import Noise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError


class FlowArSettings(LatentSettings):
    """Settings of FlowAR; `guidance` is the time below which guidance acts."""

    num_steps: int = Field(ge=2, le=1000, description="steps of the solver; other numbers than 50 are rounded to even")
    guidance: float = Field(gt=0, le=1, description="highest time at which guidance acts, 0..1")


class FlowArSampler(LatentSampler):
    """The loop over scales."""

    family: ClassVar = "flowar"
    transformer_class: ClassVar = FlowAr
    keep_fp32: ClassVar = {**LatentSampler.keep_fp32, "transformer": ("rope", "mask")}

    @property
    def transformer(self) -> FlowAr:
        return cast(FlowAr, self._modules["transformer"])

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        if settings.cfg <= 1:
            raise UserError(
                f"cfg {settings.cfg:g} must be above 1 for {spec.name}: the official code cannot run without guidance"
            )

    @staticmethod
    def group_sizes(config: FlowArConfig) -> tuple[int, ...]:
        return config.sizes

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        config, shape = cast(FlowArConfig, self.spec.transformer), self.cache_shape(policy, settings, batch=batch)
        chosen = cast(FlowArSettings, settings)
        times, itemsize = evaluation_times(chosen.num_steps)[:-1], self.dtype.itemsize
        passes = len(times)
        steps, seen = [], 0
        for scale, (side, tokens) in enumerate(zip(config.scale, config.sizes, strict=True)):
            first, before, seen = scale == 0, seen, seen + tokens
            flops = config.flops(rows=shape.rows, new=tokens, context=seen, first=first)
            guided = sum(self._strength(chosen, scale)(time) is not None for time in times)
            alone = shape.rows if self.official else batch
            head = guided * config.head.flops(rows=shape.rows, tokens=tokens)
            head += (passes - guided) * config.head.flops(rows=alone, tokens=tokens)
            weights = config.weight_bytes(itemsize, first=first) + passes * config.head.weight_bytes(itemsize)
            steps.append(
                Step(
                    index=scale,
                    kind="scale",
                    side=(side, side),
                    new_tokens=tokens,
                    context_tokens=seen,
                    cached_tokens=seen,
                    rows=shape.rows,
                    inner_passes=passes,
                    flops=flops + head,
                    launches=self._launches(passes),
                    bytes_moved=weights
                    + shape.bytes_of(before)
                    + shape.bytes_of(tokens)
                    + 4 * shape.rows * tokens * config.vae_embed_dim,
                    cache_bytes=shape.bytes_of(seen),
                )
            )
        return steps

    def _launches(self, passes: int) -> int:
        """Kernels of a step that wait for each other: conditions, every evaluation, the last update.

        The class modulates the first block of the first scale one kernel before its attention, and the latents are
        embedded in every other one. The conditions reach the first evaluation through two projections (`cond_embed` and
        a modulation), the state later ones through one.
        """
        config: FlowArConfig = self.spec.transformer
        return 1 + config.trunk_launches + 1 + passes * config.head.launches + 1

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> CacheShape:
        config: FlowArConfig = self.spec.transformer
        return CacheShape(
            layers=config.blocks,
            rows=2 * batch,
            heads=config.encoder_num_heads,
            head_dim=config.head_dim,
            capacity_tokens=sum(config.sizes),
            dtype=self.dtype,
            device=self.device,
        )

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        config, settings = cast(FlowArConfig, self.spec.transformer), cast(FlowArSettings, call.settings)
        model, kv_cache, images = self.transformer, cast(KVCache, call.cache), call.schedule.images
        done = list[Tensor]()
        for step in call.schedule:
            call.observer.step_begin(step)
            classes_R1C, scale = model.class_emb(call.labels_R).unsqueeze(1), step.index
            own, head = self._turns(scale)
            x_RlC = self._input(done[-1], scale) if done else classes_R1C
            start = sum(config.sizes[:scale])
            z_RlC = model.conditions(x_RlC, classes_R1C, start, own, cache=kv_cache)
            final_RlK, last_RlK = self._denoise(z_RlC, scale, images, settings, call.noise, head)
            done.append(call.take_latents(final_RlK[:images], step))
            state = torch.cat(done, dim=1)
            output = StepOutput(logits_pre_cfg=last_RlK, logits=final_RlK[:images], tokens=done[-1], state=state)
            call.observer.step_end(step, output)
        return done, torch.cat(done, dim=1)

    def _input(self, before_BlK: Tensor, scale: int) -> Tensor:
        """Input (R, l, C) of a scale, of the latents of the scale before it."""
        config: FlowArConfig = self.spec.transformer
        input_BlK = resized(before_BlK, config.scale[scale - 1], config.scale[scale], config.grid)
        return self.transformer.embed(input_BlK.repeat(2, 1, 1))

    def _turns(self, scale: int) -> tuple[Turn, Turn]:
        return self.transformer.turns([self.spec.transformer.scale[scale]])

    def _strength(self, settings: FlowArSettings, scale: int) -> Callable[[float], float | None]:
        """Return the guidance of a scale as a function of time."""
        full = 1 + (settings.cfg - 1) * scale / (len(self.spec.transformer.scale) - 1)
        return lambda time: full if full > 1 and time <= settings.guidance else None

    def _denoise(
        self, z_RlC: Tensor, scale: int, images: int, settings: FlowArSettings, noise: Noise, turn: Turn
    ) -> tuple[Tensor, Tensor]:
        """Final state (B or R, l, K) of a scale, and the velocities of its last evaluation.

        Draws 2 s and 2 s + 1 of a call are the halves of the noise of scale s. No latent depends on the second half: it
        is left out except where the official code is followed, or where the draws of a stream must keep their order.
        """
        config, times = cast(FlowArConfig, self.spec.transformer), evaluation_times(settings.num_steps)
        features_n256 = _features(settings.num_steps, self.device)
        like_BlK = torch.empty(images, config.sizes[scale], config.vae_embed_dim, device=self.device)
        last = list[Tensor]()

        def velocity(x_RlK: Tensor, number: int) -> Tensor:
            time_11f, z = features_n256[number].view(1, 1, -1), z_RlC[: len(x_RlK)]
            v_RlK: Tensor = self.transformer.flownet(x_RlK, time_11f, z, turn)
            last[:] = [v_RlK]
            return v_RlK

        halves = (0, 1) if self.draws_all(noise) else (0,)
        start_RlK = torch.cat([noise.normal(like_BlK, 2 * scale + half) for half in halves])
        kept_RlK = start_RlK if self.official else start_RlK[:images]
        final_RlK = solve(kept_RlK, images, times, strength=self._strength(settings, scale), velocity=velocity)
        return final_RlK, last[0]

    def denoised_again(
        self, tokens: Sequence[Tensor], labels_R: Tensor, settings: SamplingSettings, noise: Noise
    ) -> tuple[Tensor, ...]:
        config, images = cast(FlowArConfig, self.spec.transformer), len(tokens[0])
        given = [t.to(self.device) for t in tokens]
        z_RLC = self._all_conditions(given, labels_R, rows=2)
        again = []
        for scale, z_RlC in enumerate(z_RLC.split(config.sizes, dim=1)):
            chosen, turn = cast(FlowArSettings, settings), self._turns(scale)[1]
            again.append(self._denoise(z_RlC, scale, images, chosen, noise, turn)[0][:images])
        return tuple(again)

    def _all_conditions(self, tokens: Sequence[Tensor], labels_R: Tensor, *, rows: int) -> Tensor:
        """Conditions (R, L, C) of all scales in one pass, without a cache; `rows` per image."""
        config, model = cast(FlowArConfig, self.spec.transformer), self.transformer
        classes_R1C = model.class_emb(labels_R).unsqueeze(1)
        inputs = [classes_R1C]
        for scale, before_BlK in enumerate(tokens[:-1], start=1):
            input_BlK = resized(before_BlK, config.scale[scale - 1], config.scale[scale], config.grid)
            inputs.append(model.embed(input_BlK.repeat(rows, 1, 1)))
        own, _ = model.turns(config.scale)
        mask_LL = block_causal(config.sizes, self.device)
        return model.conditions(torch.cat(inputs, dim=1), classes_R1C, 0, own, mask_lT=mask_LL)

    def split(self, map_BKhw: Tensor) -> tuple[Tensor, ...]:
        sides: tuple[int, ...] = self.spec.transformer.scale
        return tuple(F.interpolate(map_BKhw, size=(s, s), mode="area").flatten(2).transpose(1, 2) for s in sides)

    def draw_training(self, batch: int, generator: torch.Generator) -> TrainingDraw:
        """Uniform times, one per scale, and noise."""
        config: FlowArConfig = self.spec.transformer
        times_Bn = torch.rand(batch, len(config.scale), generator=generator)
        noise_BLK = torch.randn(batch, sum(config.sizes), config.vae_embed_dim, generator=generator)
        return TrainingDraw(times=times_Bn.to(self.device), noise_BLK=noise_BLK.to(self.device))

    def training_pass(self, tokens: Sequence[Tensor], labels_B: Tensor, draw: TrainingDraw) -> TrainingPass:
        """Conditions come from clean latents; every scale is noisy at a time of its own."""
        config: FlowArConfig = self.spec.transformer
        z_BLC, predicted = self._all_conditions(tokens, labels_B, rows=1), []
        parts = zip(tokens, draw.noise_BLK.split(config.sizes, dim=1), z_BLC.split(config.sizes, dim=1), strict=True)
        for scale, (data_BlK, noise_BlK, z_BlC) in enumerate(parts):
            time_B = draw.times[:, scale]
            noisy_BlK = (1 - time_B[:, None, None]) * data_BlK + time_B[:, None, None] * noise_BlK
            features_B1256 = time_features(time_B).unsqueeze(1)
            predicted.append(self.transformer.flownet(noisy_BlK, features_B1256, z_BlC, self._turns(scale)[1]))
        # A scale's mean error counts by its share of the finest map, so every token counts the same.
        weights_L = torch.full((sum(config.sizes),), 1 / config.tokens, device=self.device)
        target_BLK = draw.noise_BLK - torch.cat(tuple(tokens), dim=1)
        return VelocityPass(predicted=torch.cat(predicted, dim=1), target=target_BLK, weights_L=weights_L)


# Remembered for good, because recorded calls read the table where it lies (arvbench.adapters.graphs).
@cache
def _features(num_steps: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return time_features(torch.tensor(evaluation_times(num_steps)[:-1], dtype=torch.float64)).to(device)
