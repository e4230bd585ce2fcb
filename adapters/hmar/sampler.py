"""HMAR: next-scale prediction without a history; masked prediction refines a scale in several steps.

Specific to HMAR: every step attends only to its own scale, so that f_hat carries the whole past (Markov) and there is
no cache. After a scale is predicted, its least confident tokens may be masked and redrawn, conditioned on the
others (arvbench.adapters.hmar.refinement). Both predictions share the first blocks and the input embedding; the last
`n_layers_train` blocks and the head exist twice. With `kv_cache` the first prediction attends to all scales so far, as
VAR does: the baseline of the official benchmark.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, n masked positions, C width,
         V codebook entries, K code channels
Source   HMAR (arXiv:2506.04421); behaviour of NVlabs/HMAR at 595a9df
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.drawing import Distribution, Drawn
from arvbench.adapters.hmar.checkpoints import TRAINING_NESTING, stage_of
from arvbench.adapters.hmar.refinement import (
    NO_REFINEMENT,
    PATCH_NUMS_512,
    PATCH_NUMS_1024,
    MaskSchedule,
    confidence,
    least_confident,
    mask_schedule,
    masked_counts,
)
from arvbench.adapters.hmar.transformer import Hmar, HmarConfig
from arvbench.adapters.next_scale.sampler import NextScaleSampler, ScaleRun
from arvbench.adapters.next_scale.transformer import DEMO_SIZES, PATCH_NUMS_256
from arvbench.adapters.sampler import Checkpoint, ModelSizes, ModelSpec
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings, Uint8Rule
from arvbench.adapters.tokenizers.multiscale_vq import DEMO_TOKENIZER, ResidualCanvas, VqVaeConfig
from arvbench.adapters.tokenizers.tokenizer import Sides, area_tokens
from arvbench.adapters.work import StepWork
from arvbench.errors import CheckpointError, UserError
from arvbench.kernels.dispatch import KernelSet

MASK_GUIDANCE = 1e-6
"""Guidance strength in every refinement, relative to cfg: practically unguided."""


class HmarSettings(SamplingSettings):
    """`cfg` is the guidance strength at the last scale, ramped up linearly from 0; refinement is almost unguided."""

    uint8_rule: Uint8Rule = "round"
    mask_schedule: str | MaskSchedule = NO_REFINEMENT
    """A named schedule, or one entry per scale: the number of tokens settled by each pass."""
    kv_cache: bool = False
    """Attend to all scales so far through a cache, as VAR does; excludes refinement."""


class HmarSampler(NextScaleSampler):
    """HMAR behind the sampling interface."""

    family: ClassVar = "hmar"
    transformer_class: ClassVar = Hmar
    memory: ClassVar = ("nothing", "keys and values")
    keep_fp32: ClassVar = {
        "transformer": ("ns_head_nm", "ns_head", "mask_head_nm", "mask_head"),
        "tokenizer": ("quantize",),
    }

    @classmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        sides = cls.sides_of(spec.transformer, spec.settings)
        schedule = mask_schedule(cast(HmarSettings, spec.settings).mask_schedule, sides)
        return replace(super().sizes(spec), steps=sum(len(entry) for entry in schedule))

    @property
    def transformer(self) -> Hmar:
        return cast(Hmar, self._modules["transformer"])

    @classmethod
    def adapt_spec(cls, spec: ModelSpec, transformer: Mapping[str, Tensor]) -> ModelSpec:
        """Return `spec` unchanged. Raises CheckpointError for the checkpoint of a training stage."""
        stage = stage_of(transformer, spec.transformer)
        if stage is not None:
            kind = {
                "nsp": "a VAR or, under the same names, an HMAR training checkpoint of next-scale prediction (NSP)",
                "mp": "an HMAR training checkpoint of masked prediction (MP)",
            }[stage]
            raise CheckpointError(
                f"this file is {kind}; {spec.name} needs both predictions in one file, which `arvbench convert "
                f"{spec.name} --nsp FILE --mp FILE --out FILE.safetensors` makes of the two checkpoints"
            )
        return spec

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        chosen = cast(HmarSettings, settings)
        entries = mask_schedule(chosen.mask_schedule, cast(HmarConfig, spec.transformer).sides)
        if chosen.kv_cache and any(len(entry) > 1 for entry in entries):
            raise UserError("kv_cache excludes refinement: set mask_schedule to none, or kv_cache to false")

    @classmethod
    def check_cache(cls, spec: ModelSpec, policy: str, settings: SamplingSettings) -> None:
        super().check_cache(spec, policy, settings)
        history = cast(HmarSettings, settings).kv_cache
        if history and policy == "none":
            raise UserError("kv_cache attends to all scales so far: take cache policy grow or static, not none")
        if not history and policy != "none":
            raise UserError(
                f"{spec.name} attends to its own scale only and keeps nothing: cache policy {policy} needs the setting "
                "kv_cache=true (VAR-like attention), and no refinement"
            )

    def cache_policy(self, name: str | None, settings: SamplingSettings) -> str:
        return super().cache_policy(name or (None if cast(HmarSettings, settings).kv_cache else "none"), settings)

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        config, steps = cast(HmarConfig, self.spec.transformer), list[Step]()
        refined = False
        plain = super().steps(policy, settings, batch=batch)
        for step, entry in zip(plain, self.refinement(settings), strict=True):
            steps.append(replace(step, index=len(steps)))
            for _ in entry[1:]:
                # Refinement uses other blocks, but of equal size and for an equal number of tokens.
                mask = replace(step, index=len(steps), kind="mask")
                mask = replace(mask, bytes_moved=step.bytes_moved + config.embed_dim * self.dtype.itemsize)
                steps.append(mask if refined else self._with_masked_adaln(mask))
                refined = True
        return steps

    def work(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[StepWork]:
        scales = zip(self.scale_work(policy, settings, batch=batch), self.refinement(settings), strict=True)
        return [work for work, entry in scales for _ in entry]

    def refinement(self, settings: SamplingSettings) -> MaskSchedule:
        """Return the mask schedule of `settings`."""
        return mask_schedule(cast(HmarSettings, settings).mask_schedule, self.sides(settings))

    def _with_masked_adaln(self, step: Step) -> Step:
        """Add the condition of masked prediction, computed in the first refinement; its part for the head is fp32."""
        config = cast(HmarConfig, self.spec.transformer)
        blocks = 6 * (1 if config.shared_aln else config.n_layers_train) * config.embed_dim
        head, per_output = 2 * config.embed_dim, step.rows * 2 * config.embed_dim
        return replace(
            step,
            flops=step.flops + per_output * (blocks + head),
            fp32_flops=step.fp32_flops + per_output * head,
            bytes_moved=step.bytes_moved + (config.embed_dim + 1) * (blocks * self.dtype.itemsize + 4 * head),
        )

    def draw_scale(self, steps: Sequence[Step], scale: int, run: ScaleRun) -> Tensor:
        """Draw a scale, refine its least confident tokens, then place it on the canvas."""
        drawn = self.draw(steps[0], scale, run)
        tokens_Bl, positions_Bn = drawn.tokens_Bl, None
        counts = masked_counts(self.refinement(run.call.settings)[scale])
        for before, step, count in zip(steps, steps[1:], counts, strict=False):
            self.end(before, drawn, run, redrawn_Bn=positions_Bn)
            run.call.observer.step_begin(step)
            chosen_Bn = self.masked_positions(drawn, positions_Bn, count, scale, run)
            positions_Bn = run.call.noise.redrawn(chosen_Bn, step.index)
            masked_Bl = torch.zeros_like(tokens_Bl, dtype=torch.bool).scatter(1, positions_Bn, True)
            if run.call.known is not None:
                masked_Bl = masked_Bl & ~run.call.known.keep[scale]
            drawn = self.redraw(step, scale, tokens_Bl, masked_Bl, run)
            tokens_Bl = torch.where(masked_Bl, drawn.tokens_Bl, tokens_Bl)
        run.canvas.place_ids(tokens_Bl, scale, self._kernels)
        self.end(steps[-1], drawn, run, redrawn_Bn=positions_Bn)
        return tokens_Bl

    def masked_positions(self, drawn: Drawn, among_Bn: Tensor | None, count: int, scale: int, run: ScaleRun) -> Tensor:
        """Return positions (B, count) of the least confident tokens just drawn, lowest first, known ones last."""
        confidence_Bl = drawn.probability_Bl
        if confidence_Bl is None:
            confidence_Bl = confidence(drawn.filtered_BlV, drawn.tokens_Bl)
        if run.call.known is not None:
            confidence_Bl = confidence_Bl.masked_fill(run.call.known.keep[scale], torch.inf)
        return least_confident(confidence_Bl, among_Bn, count)

    def redraw(self, step: Step, scale: int, tokens_Bl: Tensor, masked_Bl: Tensor, run: ScaleRun) -> Drawn:
        """Draw all tokens of a scale by masked prediction; only the masked ones are used."""
        model = self.transformer
        if run.condition.masked is None:
            run.condition = model.with_masked(run.condition, run.call.labels_R)
        history_BlK, own_BlK = self.masked_input(tokens_Bl, scale, run)
        x_BlC = model.embed_masked(history_BlK, own_BlK, masked_Bl)
        x_RlC = (x_BlC.repeat(2, 1, 1) if run.call.guided else x_BlC) + self.position(run, scale)
        logits_RlV = model.masked_logits(x_RlC, run.condition, self._kernels)
        return self.drawn(logits_RlV, step, scale, run)

    def distribution(self, step: Step, scale: int, run: ScaleRun) -> Distribution:
        plain = super().distribution(step, scale, run)
        if step.kind != "mask" or not run.call.guided:
            return plain
        return replace(plain, strength=run.call.settings.cfg * MASK_GUIDANCE)

    def masked_input(self, tokens_Bl: Tensor, scale: int, run: ScaleRun) -> tuple[Tensor, Tensor]:
        """Return the canvas input for `scale` and the codes added by its tokens, both (B, l, K)."""
        canvas = cast(ResidualCanvas, run.canvas)
        return canvas.input(scale), own_codes(canvas, tokens_Bl, scale)

    def forced_logits(
        self, tokens: Sequence[Tensor], labels_B: Tensor, settings: SamplingSettings, kernels: KernelSet
    ) -> Tensor:
        """Logits (B, L, V) of next-scale prediction; under `kv_cache` every scale sees the coarser ones."""
        sides, history = self.sides(settings), cast(HmarSettings, settings).kv_cache
        logits_BLV: Tensor = self.transformer(
            labels_B, self.forced_input(tokens, sides), sides, kernels, history=history
        )
        return logits_BLV

    @torch.no_grad()
    def masked_logits(self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor, positions_n: Tensor) -> Tensor:
        """Return logits (B, L, V) of masked prediction for every token, in one pass.

        `positions_n` int64 are masked in all images, counted from the first token after the first scale. The first
        scale is never masked, and its logits are meaningless.
        """
        return self._masked(tokens, self.check_labels(labels), positions_n, self._kernels)

    def _masked(self, tokens: Sequence[Tensor], labels_B: Tensor, positions_n: Tensor, kernels: KernelSet) -> Tensor:
        sides = cast(HmarConfig, self.spec.transformer).sides
        with torch.no_grad():
            history_BLK, own_BLK = self.forced_input(tokens, sides), self.own_input(tokens, sides)
        masked_BL = torch.zeros(history_BLK.shape[:2], dtype=torch.bool, device=self.device)
        masked_BL[:, positions_n.to(self.device)] = True
        return self.transformer.masked_forward(labels_B, history_BLK, own_BLK, masked_BL, sides, kernels)

    def own_input(self, tokens: Sequence[Tensor], sides: Sides) -> Tensor:
        """Return the codes (B, L - l_first, K) added by every scale but the first, at its own resolution."""
        canvas = cast(ResidualCanvas, self.tokenizer.canvas(sides, len(tokens[0])))
        return torch.cat([own_codes(canvas, ids, scale) for scale, ids in enumerate(tokens) if scale > 0], dim=1)

    def loss(
        self,
        tokens: Sequence[Tensor],
        labels: Tensor,
        *,
        settings: SamplingSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the sum of both losses, which trains all parameters jointly; the paper trains in two stages."""
        next_scale = self.next_scale_loss(tokens, labels, settings=settings, generator=generator)
        return next_scale + self.masked_loss(tokens, labels, generator=generator)

    def next_scale_parameters(self) -> list[str]:
        """Parameter names of the first training stage: all but `refinement_parameters`."""
        refinement = set(self.refinement_parameters())
        return [name for name, _ in self.transformer.named_parameters() if name not in refinement]

    def refinement_parameters(self) -> list[str]:
        """Parameter names of the second training stage, which freezes the others."""
        own = ("mask_embed.", "mask_blocks.", "mask_head.", "mask_head_nm.")
        return [name for name, _ in self.transformer.named_parameters() if name.startswith(own)]

    def next_scale_loss(
        self,
        tokens: Sequence[Tensor],
        labels: Tensor,
        *,
        settings: SamplingSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """First-stage loss: mean cross-entropy of next-scale prediction over all tokens (natural log)."""
        return super().loss(tokens, labels, settings=settings, generator=generator)

    def masked_loss(
        self,
        tokens: Sequence[Tensor],
        labels: Tensor,
        *,
        share: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Second-stage loss: mean cross-entropy of masked prediction over the masked tokens (natural log).

        In every scale but the first, `share` of the tokens (rounded up) are masked, at equal positions in all images;
        None draws the share uniformly. All draws come from `generator`; None means one with seed 0.
        """
        labels_B = self.training_labels(labels, generator)
        generator = generator or torch.Generator().manual_seed(0)
        if share is None:
            share = float(torch.rand((), generator=generator))
        positions_n = mask_at_random([ids.shape[1] for ids in tokens[1:]], share, generator).to(self.device)
        logits_BLV = self._masked(tokens, labels_B, positions_n, self._kernels.trainable())
        at_n = positions_n + tokens[0].shape[1]
        targets_BL = torch.cat(tuple(tokens), dim=1)
        return F.cross_entropy(logits_BLV[:, at_n].flatten(0, 1), targets_BL[:, at_n].flatten())


def own_codes(canvas: ResidualCanvas, ids_Bl: Tensor, scale: int) -> Tensor:
    """Return the codes (B, l, K) added to the canvas by the tokens of `scale`, at their own resolution."""
    return area_tokens(canvas.contribution(canvas.lookup(ids_Bl, scale), scale), canvas.sides[scale])


def mask_at_random(tokens: Sequence[int], share: float, generator: torch.Generator | None) -> Tensor:
    """Draw positions (n,) int64 in concatenated scales of l in `tokens`: ceil(share * l) per scale, at least one."""
    if not 0 <= share <= 1:
        raise UserError(f"the share of masked tokens must be in 0..1, got {share}")
    chosen, start = [], 0
    for count in tokens:
        masked = max(1, math.ceil(share * count))
        chosen.append(start + torch.randperm(count, generator=generator)[:masked])
        start += count
    return torch.cat(chosen)


def _model(px: int, transformer: HmarConfig, *, settings: HmarSettings, source: str, released: bool) -> ModelSpec:
    depth = transformer.depth
    checkpoint = Checkpoint(
        transformer_file=f"hmar-d{depth}.pth",
        tokenizer_file="vae_ch160v4096z32.pth",
        hub_repo="nvidia/HMAR",
        tokenizer_repo="FoundationVision/var",
        # Nesting of training checkpoints, read only to name them in the error.
        transformer_nesting=TRAINING_NESTING,
        tokenizer_nesting=(("trainer", "vae_local"),),
    )
    return ModelSpec(
        name=f"hmar-d{depth}" if px == 256 else f"hmar-d{depth}-{px}",
        sampler=HmarSampler,
        transformer=transformer,
        tokenizer=VqVaeConfig(v_patch_nums=transformer.patch_nums),
        settings=settings,
        settings_source=f"NVlabs/HMAR at 595a9df, {source}",
        checkpoint=checkpoint if released else None,
        no_recipe="" if released else "its source states settings for a speed benchmark with random weights only",
    )


def _config(depth: int, px: int, *, shared_aln: bool = False) -> HmarConfig:
    patch_nums = {256: PATCH_NUMS_256, 512: PATCH_NUMS_512, 1024: PATCH_NUMS_1024}[px]
    return HmarConfig(depth=depth, embed_dim=64 * depth, num_heads=depth, shared_aln=shared_aln, patch_nums=patch_nums)


def _released(depth: int, cfg: float, top_k: int) -> ModelSpec:
    settings = HmarSettings(cfg=cfg, top_k=top_k, top_p=0.99, mask_schedule="evaluation-256")
    source = f"config/evaluate/hmar-d{depth}.yaml"
    return _model(256, _config(depth, 256), settings=settings, source=source, released=True)


def _benchmarked(depth: int, px: int, *, shared_aln: bool = False) -> ModelSpec:
    """Spec of a model without released weights; the authors time it with random ones."""
    settings = HmarSettings(cfg=1.5, top_k=900, top_p=0.96, mask_schedule=f"benchmark-{px}")
    config = _config(depth, px, shared_aln=shared_aln)
    return _model(px, config, settings=settings, source="benchmark/inference.py", released=False)


HMAR_D16 = _released(16, 1.7, 1000)
HMAR_D20 = _released(20, 1.9, 950)
HMAR_D24 = _released(24, 2.1, 900)
HMAR_D30 = _released(30, 1.6, 650)
HMAR_D24_512 = _benchmarked(24, 512)
HMAR_D30_512 = _benchmarked(30, 512)
HMAR_D36_512 = _benchmarked(36, 512, shared_aln=True)
HMAR_D24_1024 = _benchmarked(24, 1024)

DEMO = ModelSpec(
    name="demo/hmar",
    sampler=HmarSampler,
    transformer=HmarConfig(depth=3, n_layers_train=1, embed_dim=96, num_heads=3, shared_aln=True, **DEMO_SIZES),
    tokenizer=DEMO_TOKENIZER,
    settings=HmarSettings(cfg=0.5, top_p=0.98, mask_schedule="demo"),
    settings_source="chosen on the trained demo model",
    demo=True,
)
