"""MAR behind the sampling interface: passes over the map, each of which denoises some of the tokens still masked.

The transformer runs once per pass and sees all known tokens in both directions, so that nothing can be kept for the
next one. The head runs once per step of the diffusion: these are the inner passes. A pass is guided where `cfg` is
above 1; up to there it has conditional rows alone, as the official code at 1.

Shapes   B images, R forward rows (conditional, then unconditional), n tokens of one pass, N of the map, K latent
         channels, C width
Source   MAR (arXiv:2406.11838); behaviour of LTH14/mar at fe470ac
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from arvbench.adapters.call import SamplingCall, StepOutput
from arvbench.adapters.latents.blocks import number_features
from arvbench.adapters.latents.diffusion import TRAINING_STEPS, training_process
from arvbench.adapters.latents.masked import (
    DiffusionPass,
    MaskedPass,
    MaskedSettings,
    at,
    marked,
    masked_count,
    passes_of,
    put,
    random_orders,
)
from arvbench.adapters.latents.masked_sampler import Given, MaskedSampler
from arvbench.adapters.latents.mlp_head import Denoised
from arvbench.adapters.latents.sampler import TrainingDraw
from arvbench.adapters.mar.transformer import Mar, MarConfig
from arvbench.adapters.sampling import Noise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings


class MarSampler(MaskedSampler):
    """The loop over passes."""

    family: ClassVar = "mar"
    transformer_class: ClassVar = Mar

    @property
    def transformer(self) -> Mar:
        return cast(Mar, self._modules["transformer"])

    @staticmethod
    def group_sizes(config: MarConfig) -> tuple[int, ...]:
        return (config.tokens,)

    @classmethod
    def passes(cls, config: Any, settings: MaskedSettings) -> tuple[MaskedPass, ...]:
        return passes_of(config.tokens, settings.num_iter)

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        config, chosen = cast(MarConfig, self.spec.transformer), cast(MaskedSettings, settings)
        rows, head, itemsize = self.rows(settings, batch), config.token_head, self.dtype.itemsize
        weights = config.weight_bytes(itemsize) + chosen.num_steps * head.weight_bytes(itemsize)
        # The conditions reach the first evaluation through two projections (`cond_embed` and a modulation), the state
        # later ones through one; the last update ends the pass.
        launches = config.launches + 1 + chosen.num_steps * head.launches + 1
        return [
            Step(
                index=index,
                kind="masked",
                side=None,
                new_tokens=part.predicted,
                context_tokens=config.buffer_size + config.tokens,
                cached_tokens=0,
                rows=rows,
                inner_passes=chosen.num_steps,
                flops=config.flops(rows=rows, known=part.known) + chosen.num_steps * head.flops(rows * part.predicted),
                launches=launches,
                bytes_moved=weights + 4 * rows * part.predicted * 2 * config.vae_embed_dim,
                cache_bytes=0,
            )
            for index, part in enumerate(self.passes(config, chosen))
        ]

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        config, images = cast(MarConfig, self.spec.transformer), call.schedule.images
        given = self.given(call.labels_R, images, call.settings, call.noise)
        map_BNK = torch.zeros(images, config.tokens, config.vae_embed_dim, device=self.device)
        for step, part in zip(call.schedule, self.passes(config, given.settings), strict=True):
            call.observer.step_begin(step)
            places_Bn = part.predicted_of(given.orders[0])
            done = self._denoise(map_BNK, part, places_Bn, step.index, given)
            tokens_BnK = call.take_latents(done.latents_BnK, step)
            map_BNK = put(map_BNK, places_Bn, tokens_BnK)
            output = StepOutput(
                logits_pre_cfg=done.last_Rn2K, logits=done.latents_BnK, tokens=tokens_BnK, state=map_BNK
            )
            call.observer.step_end(step, output)
        return (map_BNK,), map_BNK

    def _denoise(self, map_BNK: Tensor, part: MaskedPass, places_Bn: Tensor, index: int, given: Given) -> Denoised:
        """Denoise the tokens at `places_Bn` in pass number `index`, given the known ones of the map."""
        known_Rk = given.rows(part.known_of(given.orders[0]))
        z_RNC = self.transformer(given.rows(map_BNK), known_Rk, given.classes_R1C)
        return self.denoise_singly(at(z_RNC, given.rows(places_Bn)), part, given.settings.cfg, index, given)

    def denoised_again(
        self, tokens: Sequence[Tensor], labels_R: Tensor, settings: SamplingSettings, noise: Noise
    ) -> tuple[Tensor, ...]:
        map_BNK = tokens[0].to(self.device)
        given = self.given(labels_R, len(map_BNK), settings, noise)
        passes = enumerate(self.passes(self.spec.transformer, given.settings))
        return tuple(
            self._denoise(map_BNK, part, part.predicted_of(given.orders[0]), index, given).latents_BnK
            for index, part in passes
        )

    def split(self, map_BKhw: Tensor) -> tuple[Tensor, ...]:
        return (map_BKhw.flatten(2).transpose(1, 2),)

    def draw_training(self, batch: int, generator: torch.Generator) -> TrainingDraw:
        """Random orders, one number of masked tokens, and per token noise at some steps of the diffusion."""
        config: MarConfig = self.spec.transformer
        order_BN = random_orders(batch, config.tokens, generator)
        masked, repeated = masked_count(config.tokens, config.mask_ratio_min, generator), config.diffusion_batch_mul
        numbers = torch.randint(TRAINING_STEPS, (batch, repeated * config.tokens), generator=generator)
        noise = torch.randn(batch, repeated * config.tokens, config.vae_embed_dim, generator=generator)
        return TrainingDraw(
            times=numbers.to(self.device),
            noise_BLK=noise.to(self.device),
            order_BN=order_BN.to(self.device),
            masked=masked,
        )

    def training_pass(self, tokens: Sequence[Tensor], labels_B: Tensor, draw: TrainingDraw) -> DiffusionPass:
        """Conditions come from the known tokens; every token is denoised at steps of its own, the masked ones count."""
        (map_BNK,), order_BN = tokens, draw.order_BN
        assert order_BN is not None
        known_Bk = order_BN[:, draw.masked :].sort(dim=1).values
        z_BNC = self.transformer(map_BNK, known_Bk, self.transformer.classes(labels_B))
        repeated = draw.noise_BLK.shape[1] // map_BNK.shape[1]
        data_BLK, process = map_BNK.repeat(1, repeated, 1), training_process()
        noisy_BLK = process.at(draw.times).noisy(data_BLK, draw.noise_BLK)
        out_BL2K = self.transformer.token_head(noisy_BLK, number_features(draw.times), z_BNC.repeat(1, repeated, 1))
        return DiffusionPass(
            predicted=out_BL2K,
            data_BLK=data_BLK,
            noise_BLK=draw.noise_BLK,
            numbers_BL=draw.times,
            counted_BL=marked(order_BN, draw.masked).repeat(1, repeated),
        )
