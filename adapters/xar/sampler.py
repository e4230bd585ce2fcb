"""xAR behind the sampling interface: four cells, each denoised by a solver given the clean cells before it.

The first inner pass of a cell feeds the clean cell before it and the noise, and keeps the keys and values of the clean
one; the others feed the noisy cell alone. The official code evaluates unconditional rows in every cell, also where
guidance is off: in the first cell, whose strength is 1, nothing is kept of them, so only it computes them there.

Shapes   B images, R forward rows (conditional, then unconditional), l tokens of one cell, N tokens of the map,
         K latent channels, C width
Source   xAR (arXiv:2502.20388); behaviour of OliverRensu/xAR at 121e9c9
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import CacheShape, KVCache
from arvbench.adapters.call import SamplingCall, StepOutput
from arvbench.adapters.latents.blocks import block_causal, time_features
from arvbench.adapters.latents.sampler import (
    LatentSampler,
    LatentSettings,
    TrainingDraw,
    TrainingPass,
    VelocityPass,
)
from arvbench.adapters.sampling import Noise, normals_of
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.xar.solver import evaluation_times, solve
from arvbench.adapters.xar.transformer import Xar, XarConfig, cell_order


@dataclass(slots=True, kw_only=True)
class CellRun:
    """One cell that is being denoised."""

    cell: int
    labels_R: Tensor
    settings: LatentSettings
    images: int
    last_velocity: Tensor | None = None
    """(R, l, K): output of the last inner pass."""

    @property
    def guided(self) -> bool:
        """True when there are unconditional rows."""
        return len(self.labels_R) > self.images


class XarSampler(LatentSampler):
    """The loop over cells."""

    family: ClassVar = "xar"
    transformer_class: ClassVar = Xar
    keep_fp32: ClassVar = {**LatentSampler.keep_fp32, "transformer": ("rope", "mask")}

    @property
    def transformer(self) -> Xar:
        return cast(Xar, self._modules["transformer"])

    @staticmethod
    def group_sizes(config: XarConfig) -> tuple[int, ...]:
        return config.sizes

    def cell_rows(self, cell: int, settings: SamplingSettings, batch: int) -> int:
        """Rows of one cell: where strength is 1 and nothing is kept, only the official code has unconditional ones."""
        return batch if cell == 0 and not self.official else self.rows(settings, batch)

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        config: XarConfig = self.spec.transformer
        passes = cast(LatentSettings, settings).num_steps
        shape, tokens = self.cache_shape(policy, settings, batch=batch), config.cell_tokens
        steps = []
        for cell in range(config.clusters):
            rows, context, cached = self.cell_rows(cell, settings, batch), (cell + 1) * tokens, cell * tokens
            first = config.flops(rows=rows, cells=2 if cell else 1, context=context)
            others = (passes - 1) * config.flops(rows=rows, cells=1, context=context)
            read = passes * (config.weight_bytes(self.dtype.itemsize) + shape.bytes_of(cached))
            written = shape.bytes_of(tokens if cell else 0) + 4 * rows * tokens * config.vae_embed_dim
            steps.append(
                Step(
                    index=cell,
                    kind="cell",
                    side=(config.cell_side, config.cell_side),
                    new_tokens=tokens,
                    context_tokens=context,
                    cached_tokens=cached,
                    rows=rows,
                    inner_passes=passes,
                    flops=first + others,
                    # The first pass also embeds its times before the first block: two products more, and the update.
                    launches=passes * config.launches + 3,
                    bytes_moved=read + written,
                    cache_bytes=shape.bytes_of(cached),
                )
            )
        return steps

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> CacheShape:
        config: XarConfig = self.spec.transformer
        return CacheShape(
            layers=config.blocks,
            rows=self.rows(settings, batch),
            heads=config.encoder_num_heads,
            head_dim=config.head_dim,
            # The last cell is never kept, but lies behind the others while it is denoised.
            capacity_tokens=config.clusters * config.cell_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        settings, images = cast(LatentSettings, call.settings), call.schedule.images
        kv_cache, done = cast(KVCache, call.cache), list[Tensor]()
        for step in call.schedule:
            call.observer.step_begin(step)
            labels_R = call.labels_R[: step.rows]
            run = CellRun(cell=step.index, labels_R=labels_R, settings=settings, images=images)
            clean_BlK = done[-1] if done else None

            def velocity(x_BlK: Tensor, number: int, run: CellRun = run, clean: Tensor | None = clean_BlK) -> Tensor:
                return self._with_cache(run, x_BlK, clean if number == 0 else None, number, kv_cache)

            denoised_BlK = self._denoise(run, call.noise, velocity)
            done.append(call.take_latents(denoised_BlK, step))
            assert run.last_velocity is not None
            output = StepOutput(
                logits_pre_cfg=run.last_velocity, logits=denoised_BlK, tokens=done[-1], state=torch.cat(done, dim=1)
            )
            call.observer.step_end(step, output)
        return done, torch.cat(done, dim=1)

    def _denoise(self, run: CellRun, noise: Noise, velocity: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Latents (B, l, K) fp32 of one cell; draw number k of cell c is number c * num_steps + k of the call."""
        config, settings, images = self.spec.transformer, run.settings, run.images
        # Only shape, dtype and device of it are read.
        like_BlK = torch.empty(images, config.cell_tokens, config.vae_embed_dim, device=self.device)
        wide_BlK, first = like_BlK.double(), run.cell * settings.num_steps
        strength = 1 + (settings.cfg - 1) * run.cell / (config.clusters - 1)

        def noted(x_BlK: Tensor, number: int) -> Tensor:
            run.last_velocity = velocity(x_BlK, number)
            return run.last_velocity

        return solve(
            noise.normal(like_BlK, first),
            settings.num_steps,
            strength if run.guided and strength > 1 else None,
            velocity=noted,
            normals=normals_of(noise, wide_BlK, range(first + 1, first + settings.num_steps)),
        )

    def _with_cache(
        self, run: CellRun, x_BlK: Tensor, clean_BlK: Tensor | None, number: int, kv_cache: KVCache
    ) -> Tensor:
        """Velocities (R, l, K) of the noisy cell; with a clean cell before it, that one is kept in the cache."""
        features_n256 = self._features(run.settings.num_steps)
        x_RlK, tokens = self._rows(run, x_BlK), x_BlK.shape[1]
        if clean_BlK is None:
            condition_R1C = self.transformer.condition(run.labels_R, features_n256[number + 1 : number + 2])
            # Nothing is kept in the first cell, which may have fewer rows than the cache.
            context = kv_cache if run.cell else None
            alone_RlK: Tensor = self.transformer(x_RlK, condition_R1C, run.cell, cache=context)
            return alone_RlK
        condition_R2C = self.transformer.condition(run.labels_R, features_n256[:2])
        both_RlK = torch.cat((self._rows(run, clean_BlK), x_RlK), dim=1)
        mask_lT = torch.ones(2 * tokens, (run.cell + 1) * tokens, dtype=torch.bool, device=self.device)
        mask_lT[:tokens, -tokens:] = False
        kept: dict[str, Any] = {"cache": kv_cache, "kept": tokens, "mask_lT": mask_lT}
        v_RlK: Tensor = self.transformer(both_RlK, condition_R2C, run.cell - 1, **kept)
        return v_RlK[:, tokens:]

    @staticmethod
    def _rows(run: CellRun, x_BlK: Tensor) -> Tensor:
        return x_BlK.repeat(2, 1, 1) if run.guided else x_BlK

    def _features(self, num_steps: int) -> Tensor:
        """Tables of times (1 + num_steps, 256): that of a clean cell, then those of the evaluations."""
        return _features(num_steps, self.device)

    def denoised_again(
        self, tokens: Sequence[Tensor], labels_R: Tensor, settings: SamplingSettings, noise: Noise
    ) -> tuple[Tensor, ...]:
        config, images = cast(XarConfig, self.spec.transformer), len(tokens[0])
        features_n256, again = self._features(cast(LatentSettings, settings).num_steps), []
        for cell in range(config.clusters):
            rows = self.cell_rows(cell, settings, images)
            run = CellRun(cell=cell, labels_R=labels_R[:rows], settings=cast(LatentSettings, settings), images=images)
            mask_lT = block_causal(config.sizes[: cell + 1], self.device)
            clean = [self._rows(run, t.to(self.device)) for t in tokens[:cell]]

            def velocity(
                x_BlK: Tensor, number: int, run: CellRun = run, clean: list[Tensor] = clean, mask_lT: Tensor = mask_lT
            ) -> Tensor:
                times = features_n256[[0] * run.cell + [number + 1]]
                condition_RnC = self.transformer.condition(run.labels_R, times)
                x_RlK = torch.cat((*clean, self._rows(run, x_BlK)), dim=1)
                v_RlK: Tensor = self.transformer(x_RlK, condition_RnC, 0, mask_lT=mask_lT)
                return v_RlK[:, -x_BlK.shape[1] :]

            again.append(self._denoise(run, noise, velocity))
        return tuple(again)

    @cached_property
    def _order(self) -> tuple[Tensor, Tensor]:
        """Raster position of every token in the order of cells, and the inverse."""
        with torch.inference_mode(False):
            order_N = cell_order(self.spec.transformer).to(self.device)
            return order_N, order_N.argsort()

    def split(self, map_BKhw: Tensor) -> tuple[Tensor, ...]:
        cells_BNK = map_BKhw.flatten(2).transpose(1, 2)[:, self._order[0]]
        cells: tuple[Tensor, ...] = cells_BNK.split(self.spec.transformer.cell_tokens, dim=1)
        return cells

    def join(self, state_BLK: Tensor) -> Tensor:
        side: int = self.spec.transformer.grid
        map_BKhw: Tensor = state_BLK[:, self._order[1]].transpose(1, 2).unflatten(2, (side, side))
        return map_BKhw

    def draw_training(self, batch: int, generator: torch.Generator) -> TrainingDraw:
        """Logit-normal times, one per cell, and noise."""
        config: XarConfig = self.spec.transformer
        times_Bn = torch.randn(batch, config.clusters, generator=generator).sigmoid()
        noise_BLK = torch.randn(batch, config.tokens, config.vae_embed_dim, generator=generator)
        return TrainingDraw(times=times_Bn.to(self.device), noise_BLK=noise_BLK.to(self.device))

    def training_pass(self, tokens: Sequence[Tensor], labels_B: Tensor, draw: TrainingDraw) -> TrainingPass:
        """All cells are noisy, each at a time of its own, and see the noisy cells before them."""
        config: XarConfig = self.spec.transformer
        data_BLK, noise_BLK = torch.cat(tuple(tokens), dim=1), draw.noise_BLK
        times_BL1 = draw.times.repeat_interleave(config.cell_tokens, dim=1).unsqueeze(-1)
        condition_BnC = self.transformer.condition(labels_B, time_features(draw.times))
        mask_LL = block_causal(config.sizes, self.device)
        noisy_BLK = (1 - times_BL1) * data_BLK + times_BL1 * noise_BLK
        return VelocityPass(
            predicted=self.transformer(noisy_BLK, condition_BnC, 0, mask_lT=mask_LL),
            target=noise_BLK - data_BLK,
            weights_L=torch.full((config.tokens,), 1 / config.tokens, device=self.device),
        )


# Remembered for good, because recorded calls read the table where it lies (arvbench.adapters.graphs).
@cache
def _features(num_steps: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        times = torch.tensor([0.0, *evaluation_times(num_steps)], dtype=torch.float64)
        return time_features(times).to(device)
