"""Hi-MAR behind the sampling interface: masked passes over a coarse map, then over the fine one.

Phase 1 draws the pivots as MAR draws its tokens. Phase 2 sees what the transformer made of each pivot before it was
drawn, in the conditional rows for both halves; each of its passes denoises the whole map at once, holding the known
tokens at the noise of the step, and overwrites all that were masked before it. So the last pass decides most of the
picture. Nothing can be kept between passes.

Shapes   B images, R forward rows (conditional, then unconditional), P pivots, n tokens of one pass, N of the fine map,
         K latent channels, h w sides of the fine map, C width
Source   Hi-MAR (arXiv:2505.20288); behaviour of HiDream-ai/himar at 1d378c1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from arvbench.adapters.call import SamplingCall, StepOutput
from arvbench.adapters.himar.transformer import HiMar, HiMarConfig
from arvbench.adapters.latents.blocks import number_features
from arvbench.adapters.latents.diffusion import TRAINING_STEPS, denoise, process_of, training_process
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
from arvbench.adapters.latents.mlp_head import Denoised, TokenDraws, step_features
from arvbench.adapters.latents.sampler import TrainingDraw, TrainingPass
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.sampling import Noise, normals_of
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError


class HiMarSettings(MaskedSettings):
    """Settings of Hi-MAR; `cfg` guides the fine map, `re_cfg` the pivots. Both or neither are above 1."""

    re_cfg: float = Field(ge=0, description="scale of guidance in the last pass over the pivots")
    pivot_iter: int = Field(ge=1, le=65536, description="passes over the pivots; officially four per row of them")
    map_steps: int = Field(ge=2, le=1000, description="steps of the diffusion of the map; each evaluates its head once")


@dataclass(frozen=True, slots=True, kw_only=True)
class HiMarDraw(TrainingDraw):
    """Draw of both phases: pivots first, then fine tokens, whose map has one time for all."""

    masked_tokens: int
    """First fine tokens of their order that are masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BothPhases(TrainingPass):
    """Predictions of both phases."""

    predicted: Tensor
    """Noise (B, N, K) in the fine tokens."""
    noise_BNK: Tensor
    counted_BN: Tensor
    pivots: DiffusionPass

    def loss(self) -> Tensor:
        """Return the loss of the masked pivots, and the mean squared error of the masked fine tokens, scalar."""
        error_BN = (self.predicted - self.noise_BNK).square().mean(-1)
        return self.pivots.loss() + (error_BN * self.counted_BN).sum() / self.counted_BN.sum()


class MapDraws(NamedTuple):
    """Normal draws of one pass over the map: the start, and for each step two of every half of the rows.

    The official code draws one that it does not read before that of the step; of both it reads the conditional half.
    """

    noise: Noise
    first: int
    """Number of the start among the draws of the call."""
    unused: bool
    """True: make the draws that the official code does not read."""
    guided: bool

    @staticmethod
    def count(steps: int) -> int:
        """Draws of a pass."""
        return 1 + 4 * steps

    def start(self, like_BKhw: Tensor) -> Tensor:
        return self.noise.normal(like_BKhw, self.first)

    def of_steps(self, like_BKhw: Tensor, steps: int) -> Iterator[Tensor]:
        """Yield the noise (B, K, h, w) of every step."""
        numbers = range(self.first + 3, self.first + self.count(steps), 4)
        if not self.unused:
            yield from normals_of(self.noise, like_BKhw, numbers)
            return
        for number in numbers:
            order = (-2, -1, 0, 1) if self.guided else (-2, 0)
            drawn = {place: self.noise.normal(like_BKhw, number + place) for place in order}
            yield drawn[0]


class HiMarSampler(MaskedSampler):
    """The loop over passes of both phases."""

    family: ClassVar = "himar"
    transformer_class: ClassVar = HiMar

    @property
    def transformer(self) -> HiMar:
        return cast(HiMar, self._modules["transformer"])

    @staticmethod
    def group_sizes(config: HiMarConfig) -> tuple[int, ...]:
        return config.pivots, config.tokens

    @classmethod
    def passes(cls, config: Any, settings: MaskedSettings) -> tuple[MaskedPass, ...]:
        pivots, tokens = cls.phases(config, cast(HiMarSettings, settings))
        return (*pivots, *tokens)

    @staticmethod
    def phases(config: HiMarConfig, settings: HiMarSettings) -> tuple[tuple[MaskedPass, ...], tuple[MaskedPass, ...]]:
        """Passes over the pivots, and over the fine tokens."""
        return passes_of(config.pivots, settings.pivot_iter), passes_of(config.tokens, settings.num_iter)

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        if (settings.cfg > 1) != (cast(HiMarSettings, settings).re_cfg > 1):
            raise UserError(
                f"{spec.name}: cfg {settings.cfg:g} and re_cfg {cast(HiMarSettings, settings).re_cfg:g} must both be "
                "above 1, or neither: guidance decides the rows of both phases"
            )

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        config, chosen = cast(HiMarConfig, self.spec.transformer), cast(HiMarSettings, settings)
        rows, itemsize, (pivots, tokens) = self.rows(settings, batch), self.dtype.itemsize, self.phases(config, chosen)
        steps = []
        for index, part in enumerate((*pivots, *tokens)):
            fine = index >= len(pivots)
            inner = chosen.map_steps if fine else chosen.num_steps
            head = config.map_head if fine else config.token_head
            known = {"pivots": config.pivots if fine else part.known, "tokens": part.known if fine else 0}
            work = config.map_head.flops(rows) if fine else config.token_head.flops(rows * part.predicted)
            drawn = part.total - part.known if fine else part.predicted
            weights = config.weight_bytes(itemsize, phase=int(fine)) + inner * head.weight_bytes(itemsize)
            steps.append(
                Step(
                    index=index,
                    kind="masked" if fine else "pivots",
                    side=None,
                    new_tokens=drawn,
                    context_tokens=config.sequence,
                    cached_tokens=0,
                    rows=rows,
                    inner_passes=inner,
                    flops=config.flops(rows=rows, phase=int(fine), **known) + inner * work,
                    # Conditions reach the first evaluation through two projections, the state later ones through one.
                    launches=config.launches + 1 + inner * head.launches + 1,
                    bytes_moved=weights + 4 * rows * drawn * config.vae_embed_dim * (1 if fine else 2),
                    cache_bytes=0,
                )
            )
        return steps

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        config, images = cast(HiMarConfig, self.spec.transformer), call.schedule.images
        given = self.given(call.labels_R, images, call.settings, call.noise)
        pivots_BPK = torch.zeros(images, config.pivots, config.cond_dim, device=self.device)
        map_BNK = torch.zeros(images, config.tokens, config.vae_embed_dim, device=self.device)
        z_BPC, (pivots, fine) = self._no_conditions(images), self.phases(config, given.settings)
        for step, part in zip(call.schedule, (*pivots, *fine), strict=True):
            call.observer.step_begin(step)
            if step.index < len(pivots):
                places_Bn = part.predicted_of(given.orders[0])
                done, z_BPC = self._denoise_pivots(z_BPC, pivots_BPK, part, places_Bn, step.index, given)
                tokens_BnK = call.take_latents(done.latents_BnK, step)
                pivots_BPK = put(pivots_BPK, places_Bn, tokens_BnK)
            else:
                places_Bn = part.masked_of(given.orders[1])
                done = self._denoise_map(z_BPC, map_BNK, part, places_Bn, step.index - len(pivots), given)
                tokens_BnK = call.take_latents(done.latents_BnK, step)
                map_BNK = put(map_BNK, places_Bn, tokens_BnK)
            state = torch.cat((pivots_BPK, map_BNK), dim=1)
            output = StepOutput(logits_pre_cfg=done.last_Rn2K, logits=done.latents_BnK, tokens=tokens_BnK, state=state)
            call.observer.step_end(step, output)
        return (pivots_BPK, map_BNK), torch.cat((pivots_BPK, map_BNK), dim=1)

    def denoised_again(
        self, tokens: Sequence[Tensor], labels_R: Tensor, settings: SamplingSettings, noise: Noise
    ) -> tuple[Tensor, ...]:
        pivots_BPK, map_BNK = (t.to(self.device) for t in tokens)
        given, again = self.given(labels_R, len(map_BNK), settings, noise), []
        z_BPC, (pivots, fine) = self._no_conditions(len(map_BNK)), self.phases(self.spec.transformer, given.settings)
        for index, part in enumerate(pivots):
            places_Bn = part.predicted_of(given.orders[0])
            done, z_BPC = self._denoise_pivots(z_BPC, pivots_BPK, part, places_Bn, index, given)
            again.append(done.latents_BnK)
        for index, part in enumerate(fine):
            places_Bn = part.masked_of(given.orders[1])
            again.append(self._denoise_map(z_BPC, map_BNK, part, places_Bn, index, given).latents_BnK)
        return tuple(again)

    def _no_conditions(self, images: int) -> Tensor:
        config: HiMarConfig = self.spec.transformer
        return torch.zeros(images, config.pivots, config.width, dtype=self.dtype, device=self.device)

    def _denoise_pivots(
        self, z_BPC: Tensor, pivots_BPK: Tensor, part: MaskedPass, places_Bn: Tensor, index: int, given: Given
    ) -> tuple[Denoised, Tensor]:
        """Denoise the pivots at `places_Bn` in pass number `index`; add their conditions to those of all drawn before.

        `z_BPC` holds the conditions of the rows that have a class.
        """
        known_Rk = given.rows(part.known_of(given.orders[0]))
        z_RPC = self.transformer.pivot_conditions(given.rows(pivots_BPK), known_Rk, given.classes_R1C)
        z_RnC = at(z_RPC, given.rows(places_Bn))
        done = self.denoise_singly(z_RnC, part, given.settings.re_cfg, index, given)
        return done, put(z_BPC, places_Bn, z_RnC[: len(places_Bn)])

    def _denoise_map(
        self, z_BPC: Tensor, map_BNK: Tensor, part: MaskedPass, places_Bn: Tensor, index: int, given: Given
    ) -> Denoised:
        """Denoise the whole map in pass number `index` of phase 2, and return the tokens at `places_Bn`."""
        config, settings, images = self.spec.transformer, given.settings, len(map_BNK)
        known_Bk = part.known_of(given.orders[1])
        conditions = given.rows(z_BPC), given.rows(map_BNK), given.rows(known_Bk), given.classes_R1C
        z_RNC = self.transformer.map_conditions(*conditions)
        process = process_of(settings.map_steps, settings.last_number)
        strength = part.strength(settings, settings.cfg) if given.guided else None
        features_S256, last = step_features(process.numbers, self.device), list[Tensor]()
        map_BKhw = map_BNK.transpose(1, 2).unflatten(2, (config.grid, config.grid))
        known_BN1 = torch.zeros(images, config.tokens, dtype=torch.bool, device=self.device).scatter(1, known_Bk, True)
        held_B1hw = known_BN1.view(images, 1, config.grid, config.grid)
        like_BKhw = torch.empty_like(map_BKhw, memory_format=torch.contiguous_format)
        draws = MapDraws(given.noise, self._first_map_draw(settings, index), self.draws_all(given.noise), given.guided)
        start_BKhw = draws.start(like_BKhw)

        def predict(x_BKhw: Tensor, number: int) -> tuple[Tensor, float]:
            noise_RKhw = self.transformer.map_head(given.rows(x_BKhw), features_S256[number].view(1, 1, -1), z_RNC)
            last[:] = [noise_RKhw]
            noise_BKhw = noise_RKhw[:images]
            if strength is not None:
                noise_BKhw = noise_RKhw[images:] + strength * (noise_BKhw - noise_RKhw[images:])
            return noise_BKhw, process[number].fixed_log_variance

        sampled_BKhw = denoise(
            start_BKhw,
            process,
            predict=predict,
            normals=draws.of_steps(like_BKhw, len(process)),
            temperature=settings.temperature,
            hold=lambda x, number: torch.where(held_B1hw, process[number].noisy(map_BKhw, start_BKhw), x),
        )
        tokens_BnK = at(sampled_BKhw.flatten(2).transpose(1, 2), places_Bn)
        return Denoised(tokens_BnK, last[0].flatten(2).transpose(1, 2))

    def _first_map_draw(self, settings: HiMarSettings, index: int) -> int:
        pivots = settings.pivot_iter * TokenDraws.count(settings.num_steps)
        return pivots + index * MapDraws.count(settings.map_steps)

    def split(self, map_BKhw: Tensor) -> tuple[Tensor, ...]:
        """Pivots, the area means of the latents, and all tokens of the map."""
        config: HiMarConfig = self.spec.transformer
        coarse = F.interpolate(map_BKhw, size=(config.cond_scale, config.cond_scale), mode="area")
        return tuple(t.flatten(2).transpose(1, 2) for t in (coarse, map_BKhw))

    def draw_training(self, batch: int, generator: torch.Generator) -> HiMarDraw:
        """Random orders and numbers of masked tokens of both phases, times and noise of their diffusions."""
        config: HiMarConfig = self.spec.transformer
        orders = [random_orders(batch, total, generator).to(self.device) for total in self.group_sizes(config)]
        masked = [masked_count(total, config.mask_ratio_min, generator) for total in self.group_sizes(config)]
        repeated = config.diffusion_batch_mul * config.pivots
        times = torch.randint(TRAINING_STEPS, (batch, repeated + 1), generator=generator)
        noise = torch.randn(batch, repeated + config.tokens, config.vae_embed_dim, generator=generator)
        return HiMarDraw(
            times=times.to(self.device),
            noise_BLK=noise.to(self.device),
            order_BN=torch.cat((orders[0], orders[1] + config.pivots), dim=1),
            masked=masked[0],
            masked_tokens=masked[1],
        )

    def training_pass(self, tokens: Sequence[Tensor], labels_B: Tensor, draw: TrainingDraw) -> BothPhases:
        """Both phases on clean latents; the pivots' conditions of phase 1 are the input of phase 2."""
        config, (pivots_BPK, map_BNK) = cast(HiMarConfig, self.spec.transformer), tokens
        assert isinstance(draw, HiMarDraw) and draw.order_BN is not None
        pivot_order_BP, order_BN = draw.order_BN[:, : config.pivots], draw.order_BN[:, config.pivots :] - config.pivots
        model, classes_B1C, process = self.transformer, self.transformer.classes(labels_B), training_process()
        z_BPC = model.pivot_conditions(pivots_BPK, pivot_order_BP[:, draw.masked :].sort(dim=1).values, classes_B1C)
        known_Bk = order_BN[:, draw.masked_tokens :].sort(dim=1).values
        z_BNC = model.map_conditions(z_BPC, map_BNK, known_Bk, classes_B1C)
        repeated = draw.times.shape[1] - 1
        noise_BlK, noise_BNK = draw.noise_BLK.split((repeated, config.tokens), dim=1)
        times_Bl, times_B1 = draw.times[:, :-1], draw.times[:, -1:]
        copies = repeated // config.pivots
        data_BlK = pivots_BPK.repeat(1, copies, 1)
        noisy_BlK = process.at(times_Bl).noisy(data_BlK, noise_BlK)
        out_Bl2K = model.token_head(noisy_BlK, number_features(times_Bl), z_BPC.repeat(1, copies, 1))
        noisy_BNK = process.at(times_B1).noisy(map_BNK, noise_BNK)
        noisy_BKhw = noisy_BNK.transpose(1, 2).unflatten(2, (config.grid, config.grid))
        guess_BKhw = model.map_head(noisy_BKhw, number_features(times_B1), z_BNC)
        return BothPhases(
            predicted=guess_BKhw.flatten(2).transpose(1, 2),
            noise_BNK=noise_BNK,
            counted_BN=marked(order_BN, draw.masked_tokens),
            pivots=DiffusionPass(
                predicted=out_Bl2K,
                data_BLK=data_BlK,
                noise_BLK=noise_BlK,
                numbers_BL=times_Bl,
                counted_BL=marked(pivot_order_BP, draw.masked).repeat(1, copies),
            ),
        )
