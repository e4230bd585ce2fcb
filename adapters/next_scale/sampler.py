"""Next-scale prediction: the sampling loop that VAR, M-VAR, HMAR and FlexVAR share.

Every step predicts all tokens of one scale. What was drawn so far lies on a *canvas*, which says what the transformer
reads for the next scale and what the decoder sees at the end. A family overrides what is different about it: its
blocks, its canvas, its guidance, how tokens of a scale are drawn or refined.

Shapes   B images, R forward rows (conditional, then unconditional), S scales, l tokens of one scale, L of all scales,
         C width, V codebook entries, K code channels, h w latent sides
Source   VAR (arXiv:2404.02905); behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.policy import Cache, CacheShape
from arvbench.adapters.editing import Edit, check_images, keep_per_scale
from arvbench.adapters.next_scale.canvas import Canvas, Sides
from arvbench.adapters.next_scale.cost import StepCost
from arvbench.adapters.next_scale.transformer import NextScaleConfig, NextScaleTransformer
from arvbench.adapters.sampler import ModelSizes, ModelSpec, Observer, Sampler, Samples, SilentObserver, StepOutput
from arvbench.adapters.sampling import Noise, cfg_mix, filter_logits
from arvbench.adapters.schedule import Schedule, Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.kernels.dispatch import select


@dataclass(slots=True, kw_only=True)
class ScaleRun:
    """One sampling call under way."""

    settings: SamplingSettings
    noise: Noise
    cache: Cache
    observer: Observer
    schedule: Schedule
    labels_R: Tensor
    """Classes of the forward rows; the null class for unconditional ones."""
    canvas: Canvas
    edit: Edit | None
    guided: bool
    """True when there are unconditional rows."""
    condition: Any = None
    positions_1LC: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def scales(self) -> int:
        return len(self.canvas.sides)


class ScaleDraw(NamedTuple):
    """Tokens of one pass and the logits they came from."""

    logits_RlV: Tensor
    logits_BlV: Tensor
    """After guidance."""
    filtered_BlV: Tensor
    """After top-k and top-p."""
    tokens_Bl: Tensor


class NextScaleSampler(Sampler):
    """The loop over scales. Every step but the first reads the canvas; the tokens drawn go back onto it."""

    # Official code computes logits in fp32 whatever the autocast dtype.
    keep_fp32: ClassVar = {"transformer": ("head_nm", "head"), "tokenizer": ("quantize",)}

    @property
    def transformer(self) -> NextScaleTransformer:
        return cast(NextScaleTransformer, self._modules["transformer"])

    @classmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        sides = cls.sides_of(spec.transformer, spec.settings)
        return ModelSizes(
            image_px=sides[-1][0] * spec.tokenizer.downsample,
            num_classes=spec.transformer.num_classes,
            vocab_size=spec.tokenizer.vocab_size,
            steps=len(sides),
            tokens=sum(h * w for h, w in sides),
        )

    @classmethod
    def sides_of(cls, config: Any, settings: SamplingSettings) -> Sides:
        """Height and width of the token map of every scale."""
        return cast(NextScaleConfig, config).sides

    def sides(self, settings: SamplingSettings) -> Sides:
        """`sides_of` this model."""
        return self.sides_of(self.spec.transformer, settings)

    def image_shape(self, settings: SamplingSettings) -> tuple[int, int]:
        height, width = self.sides(settings)[-1]
        downsample: int = self.spec.tokenizer.downsample
        return height * downsample, width * downsample

    @abstractmethod
    def new_canvas(self, sides: Sides, batch: int) -> Canvas:
        """An empty canvas for `batch` images."""

    def guidance(self, scale: int, scales: int, settings: SamplingSettings) -> float:
        """Strength t of (1 + t) cond - t uncond: ramps up linearly from 0 at the first scale to cfg at the last."""
        return settings.cfg * scale / (scales - 1)

    def guide(self, logits_RlV: Tensor, scale: int, run: ScaleRun) -> Tensor:
        """Logits (B, l, V) that tokens are drawn from, before top-k and top-p."""
        if not run.guided:
            return logits_RlV
        return cfg_mix(logits_RlV, self.guidance(scale, run.scales, run.settings))

    def filter(self, logits_BlV: Tensor, side: tuple[int, int], settings: SamplingSettings) -> Tensor:
        """Logits (B, l, V) with tokens that cannot be drawn at -inf."""
        return filter_logits(logits_BlV, settings.top_k, settings.top_p)

    def codes(self, drawn: ScaleDraw, step: Step, scale: int, run: ScaleRun) -> Tensor:
        """Code vectors (B, K, ph, pw) that go onto the canvas."""
        return run.canvas.lookup(drawn.tokens_Bl, scale)

    def draw_scale(self, steps: Sequence[Step], scale: int, run: ScaleRun) -> Tensor:
        """Draw the tokens (B, l) of one scale and put them onto the canvas; one step, unless a family refines them."""
        (step,) = steps
        drawn = self.draw(step, scale, run)
        run.canvas.place(self.codes(drawn, step, scale, run), scale)
        self.end(step, drawn, run)
        return drawn.tokens_Bl

    def schedule(self, settings: SamplingSettings, *, batch: int, cache: str | None = None) -> Schedule:
        policy = cache or self.default_cache[self.backend]
        self.check_cache(self.spec, policy, settings)
        sides = self.sides(settings)
        steps: list[Step] = []
        seen = 0
        for side in sides:
            seen += side[0] * side[1]
            steps.append(self.step_at(len(steps), "scale", side, seen, policy, settings, batch))
        return Schedule(steps=tuple(steps), images=batch, decode_flops=batch * self.decode_flops_per_image(sides[-1]))

    def step_at(
        self,
        index: int,
        kind: str,
        side: tuple[int, int],
        seen: int,
        policy: str,
        settings: SamplingSettings,
        batch: int,
    ) -> Step:
        """The step that predicts a scale of `side`, `seen` tokens being known after it."""
        new, rows = side[0] * side[1], self.rows(settings, batch)
        context, cached = (new, 0) if policy == "none" else (seen, seen)
        bytes_of = self.cache_shape(policy, settings, batch=batch).bytes_of
        first = index == 0
        traffic = self.cost.weight_bytes(first=first) + 4 * rows * new * self.spec.vocab_size
        return Step(
            index=index,
            kind=kind,
            side=side,
            new_tokens=new,
            context_tokens=context,
            cached_tokens=cached,
            rows=rows,
            flops=self.cost.flops(rows=rows, images=batch, new=new, context=context, first=first),
            bytes_moved=traffic + (bytes_of(cached) + bytes_of(new) if cached else 0),
            cache_bytes=bytes_of(cached),
        )

    @cached_property
    def cost(self) -> StepCost:
        config: NextScaleConfig = self.spec.transformer
        return StepCost(
            depth=config.depth,
            width=config.embed_dim,
            hidden=config.hidden,
            vocab_size=config.vocab_size,
            code_dim=config.code_dim,
            shared_aln=config.shared_aln,
            itemsize=self.dtype.itemsize,
        )

    def rows(self, settings: SamplingSettings, batch: int) -> int:
        """Forward rows R. At strength 0 the unconditional ones never reach the logits; only the official way computes
        them regardless.
        """
        return batch if settings.cfg == 0 and self.backend == "optimized" else 2 * batch

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> Any:
        config: NextScaleConfig = self.spec.transformer
        return CacheShape(
            layers=config.depth,
            rows=self.rows(settings, batch),
            heads=config.num_heads,
            head_dim=config.embed_dim // config.num_heads,
            capacity_tokens=sum(h * w for h, w in self.sides(settings)),
            dtype=self.dtype,
            device=self.device,
        )

    @abstractmethod
    def decode_flops_per_image(self, side: tuple[int, int]) -> int:
        """FLOPs of the tokenizer's decoder for one latent map of `side`."""

    def sample(
        self,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: Cache | None = None,
        observer: Observer | None = None,
    ) -> Samples:
        return self._sample(labels, settings, noise=noise, cache=cache, observer=observer)

    def edit(
        self,
        images: Tensor,
        keep: Tensor,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: Cache | None = None,
        observer: Observer | None = None,
    ) -> Samples:
        """Draw part of `images` again, for `labels` (arvbench.adapters.editing.Editor says how)."""
        self.check_settings(self.spec, settings)
        batch, sides = len(self.check_labels(labels)), self.sides(settings)
        check_images(images, sides[-1], self.spec.tokenizer.downsample)
        kept = keep_per_scale(keep.to(self.device), sides, images=images, labels=batch)
        edit = Edit(tokens=self.encode(images, settings=settings), keep=kept)
        return self._sample(labels, settings, noise=noise, cache=cache, observer=observer, edit=edit)

    @torch.no_grad()
    def _sample(
        self,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: Cache | None,
        observer: Observer | None,
        edit: Edit | None = None,
    ) -> Samples:
        self.check_settings(self.spec, settings)
        labels_B = self.check_labels(labels)
        batch = len(labels_B)
        cache = self.ready_cache(cache, settings, batch=batch)
        guided = self.rows(settings, batch) > batch
        null_B = torch.full_like(labels_B, self.spec.num_classes)
        run = ScaleRun(
            settings=settings,
            noise=noise,
            cache=cache,
            observer=observer or SilentObserver(),
            schedule=self.cached_schedule(settings, batch=batch, cache=cache.policy),
            labels_R=torch.cat((labels_B, null_B)) if guided else labels_B,
            canvas=self.new_canvas(self.sides(settings), batch),
            edit=edit,
            guided=guided,
        )
        tokens = [self.draw_scale(steps, scale, run) for scale, steps in enumerate(run.schedule.groups())]
        run.observer.decode_begin()
        decoded = run.canvas.decode()
        run.observer.decode_end(decoded)
        return self.finish(tokens, decoded, labels_B, settings)

    def draw(self, step: Step, scale: int, run: ScaleRun) -> ScaleDraw:
        """Begin `step` and draw the tokens of its scale."""
        run.observer.step_begin(step)
        model = self.transformer
        if run.condition is None:
            # What the class decides is computed once, and belongs to the cost of the first step.
            run.condition, run.positions_1LC = model.condition(run.labels_R), model.positions(run.canvas.sides)
            x_RlC = run.condition.start_R1C
        else:
            x_BlC = model.embed(run.canvas.input(scale))
            x_RlC = x_BlC.repeat(2, 1, 1) if run.guided else x_BlC
        x_RlC = x_RlC + self.position(run, scale)
        logits_RlV = model.logits(x_RlC, run.condition, self._kernels, cache=run.cache)
        logits_BlV = self.guide(logits_RlV, scale, run)
        filtered_BlV = self.filter(logits_BlV, step.side, run.settings)
        tokens_Bl = run.noise.tokens(filtered_BlV, step.index)
        if run.edit is not None:
            tokens_Bl = run.edit.apply(tokens_Bl, scale)
        return ScaleDraw(logits_RlV, logits_BlV, filtered_BlV, tokens_Bl)

    def position(self, run: ScaleRun, scale: int) -> Tensor:
        """(1, l, C): positions of the tokens of one scale."""
        before = sum(h * w for h, w in run.canvas.sides[:scale])
        h, w = run.canvas.sides[scale]
        return run.positions_1LC[:, before : before + h * w]

    def end(self, step: Step, drawn: ScaleDraw, run: ScaleRun, *, redrawn_Bn: Tensor | None = None) -> None:
        """Tell the observer what `step` produced."""
        output = StepOutput(
            logits_pre_cfg=drawn.logits_RlV,
            logits=drawn.logits_BlV,
            tokens=drawn.tokens_Bl,
            redrawn=redrawn_Bn,
            state=run.canvas.state,
        )
        run.observer.step_end(step, output)

    @abstractmethod
    def forced_input(self, tokens: Sequence[Tensor], sides: Sides) -> Tensor:
        """What the canvas would show for every scale but the first if all `tokens` were known: (B, L - l_first, K)."""

    @torch.no_grad()
    def teacher_forced(
        self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor, *, settings: SamplingSettings | None = None
    ) -> Tensor:
        sides = self.sides(settings or self.spec.settings)
        return self.transformer(self.check_labels(labels), self.forced_input(tokens, sides), sides, self._kernels)

    def loss(
        self,
        tokens: Sequence[Tensor],
        labels: Tensor,
        *,
        settings: SamplingSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Cross-entropy averaged over all tokens of all scales (natural log)."""
        labels_B, sides = self.check_labels(labels), self.sides(settings or self.spec.settings)
        config: NextScaleConfig = self.spec.transformer
        if self.transformer.training and config.cond_drop_rate > 0:
            labels_B = self.drop_labels(labels_B, config.cond_drop_rate, generator)
        with torch.no_grad():
            codes_BLK = self.forced_input(tokens, sides)
        # Triton kernels are forward only.
        logits_BLV = self.transformer(labels_B, codes_BLK, sides, select("reference", self.device))
        return F.cross_entropy(logits_BLV.flatten(0, 1), torch.cat(tuple(tokens), dim=1).flatten())
