"""Next-scale prediction: the sampling loop shared by VAR, M-VAR, HMAR and FlexVAR.

Every step predicts all tokens of one scale. The tokenizer's *canvas* holds the codes drawn so far: the
transformer reads it for the next scale, and the decoder reads it at the end. A family overrides the parts in which it
differs: blocks, guidance, drawing or refining the tokens of a scale.

Shapes   B images, R forward rows (conditional, then unconditional), S scales, l tokens of one scale, L of all scales,
         C width, V codebook entries, K code channels, ph pw sides of one scale's token map
Source   VAR (arXiv:2404.02905); behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import CachePlan, CacheShape, KVCache, TokenOrder
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.call import SamplingCall, StepOutput
from arvbench.adapters.drawing import Distribution, Drawn, draw_tokens, sample_rule
from arvbench.adapters.editing import KnownPixels, KnownTokens, keep_per_scale
from arvbench.adapters.next_scale.cost import StepCost, step_cost
from arvbench.adapters.next_scale.smoothing import SmoothSettings, mix_codes
from arvbench.adapters.next_scale.transformer import NextScaleConfig, NextScaleTransformer
from arvbench.adapters.pixels import to_unit_range
from arvbench.adapters.sampler import ModelSizes, ModelSpec, Sampler
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.tokenizers.multiscale_vq import VqVae
from arvbench.adapters.tokenizers.tokenizer import Canvas, ScaleTokenizer, Sides, check_tokens, decode_flops
from arvbench.adapters.work import StepWork, planned_work
from arvbench.kernels.backends import Kernels
from arvbench.kernels.dispatch import KernelSet


@dataclass(slots=True, kw_only=True)
class ScaleRun:
    """State of one sampling call in progress."""

    call: SamplingCall
    canvas: Canvas
    condition: Any = None
    """Output of the transformer's `condition`; None before the first step."""
    positions_1LC: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def scales(self) -> int:
        return len(self.canvas.sides)


class NextScaleSampler(Sampler):
    """The loop over scales. Every step but the first reads the canvas; every step places its codes on it."""

    transformer_class: ClassVar[type[NextScaleTransformer]] = NextScaleTransformer
    tokenizer_class: ClassVar[type[ScaleTokenizer]] = VqVae
    # The official code computes logits in fp32 under any autocast dtype.
    keep_fp32: ClassVar = {"transformer": ("head_nm", "head"), "tokenizer": ("quantize",)}
    edits: ClassVar = True

    @property
    def transformer(self) -> NextScaleTransformer:
        return cast(NextScaleTransformer, self._modules["transformer"])

    @property
    def tokenizer(self) -> ScaleTokenizer:
        return cast(ScaleTokenizer, self._modules["tokenizer"])

    def use_kernels(self, kernels: Kernels | KernelSet) -> None:
        super().use_kernels(kernels)
        if self._kernels.names["block_sparse_attention"] != "torch":
            for module in self._modules.values():
                if isinstance(module, NextScaleTransformer):
                    module.drop_mask()

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
        """Height and width of the token map of every scale, for this model."""
        return self.sides_of(self.spec.transformer, settings)

    def image_shape(self, settings: SamplingSettings) -> tuple[int, int]:
        height, width = self.sides(settings)[-1]
        downsample: int = self.spec.tokenizer.downsample
        return height * downsample, width * downsample

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        shape = self.cache_shape(policy, settings, batch=batch)
        works = self.scale_work(policy, settings, batch=batch)
        sides = self.sides(settings)
        steps: list[Step] = []
        seen = 0
        for index, work in enumerate(works):
            new, seen = work.new, seen + work.new
            context, cached, cache_bytes, traffic = self._contents(work, shape, seen)
            flops = self.cost.flops(rows=work.rows, images=batch, new=new, context=context, first=index == 0)
            read = self.cost.weight_bytes(first=index == 0)
            steps.append(
                Step(
                    index=index,
                    kind="scale",
                    side=sides[index],
                    new_tokens=new,
                    context_tokens=context,
                    cached_tokens=cached,
                    rows=work.rows,
                    flops=flops + self.cost.beyond_the_mean(work, context),
                    fp32_flops=self.cost.fp32_flops(rows=work.rows, logits=new, first=index == 0),
                    launches=self.cost.launches,
                    bytes_moved=read + 4 * work.rows * new * self.spec.tokenizer.vocab_size + traffic,
                    cache_bytes=cache_bytes,
                )
            )
        return steps

    def scale_work(self, policy: str, settings: SamplingSettings, *, batch: int) -> list[StepWork]:
        """Work of one pass per scale."""
        shape, rows = self.cache_shape(policy, settings, batch=batch), self.rows(settings, batch)
        tokens = [height * width for height, width in self.sides(settings)]
        heads, layers = self.spec.transformer.num_heads, self.spec.transformer.depth
        if policy == "none" or not isinstance(shape, CacheShape):  # nothing is cached per head
            nothing = CachePlan(((0,) * layers,) * len(tokens), 0)
            return planned_work(tokens, rows, heads, nothing)
        name, options = read_request(policy)
        plan = cast(type[KVCache], CACHE_POLICIES[name]).plan(shape, options)
        return planned_work(tokens, rows, heads, plan)

    def work(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[StepWork]:
        return self.scale_work(policy, settings, batch=batch)

    def _contents(self, work: StepWork, shape: Any, seen: int) -> tuple[int, int, int, int]:
        """Tokens attended to and cached, means over layers and heads, with the bytes in the cache and its traffic."""
        if not isinstance(shape, CacheShape):
            return seen, seen, shape.bytes_of(seen), shape.bytes_of(seen) + shape.bytes_of(work.new)
        entries = shape.layers * shape.heads
        written = sum(work.queries) * shape.heads
        traffic = (sum(work.reads) + written) * work.entry_bytes
        return round(sum(work.reads) / entries), round(sum(work.held) / entries), work.cache_bytes, traffic

    @cached_property
    def cost(self) -> StepCost:
        return step_cost(self.spec.transformer, self.dtype)

    def decode_flops(self, settings: SamplingSettings) -> int:
        return decode_flops(self.tokenizer_class, self.spec.tokenizer, self.sides(settings)[-1])

    def rows(self, settings: SamplingSettings, batch: int) -> int:
        """Forward rows R: one per image, two with guidance.

        The official code also computes unconditional rows at strength 0, where they do not change the logits.
        """
        return batch if settings.cfg == 0 and not self.official else 2 * batch

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
            order=self.token_order(self.spec, settings),
        )

    @classmethod
    def token_order(cls, spec: ModelSpec, settings: SamplingSettings) -> TokenOrder:
        return TokenOrder(kind="scales", steps=cls.sides_of(spec.transformer, settings))

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        run = self.new_run(call)
        tokens = [self.draw_scale(steps, scale, run) for scale, steps in enumerate(call.schedule.groups())]
        return tokens, run.canvas.state

    def new_run(self, call: SamplingCall) -> ScaleRun:
        """Return the state of a call that begins."""
        return ScaleRun(call=call, canvas=self.tokenizer.canvas(self.sides(call.settings), call.schedule.images))

    def draw_scale(self, steps: Sequence[Step], scale: int, run: ScaleRun) -> Tensor:
        """Draw the tokens (B, l) of one scale and place them on the canvas; one step, unless a family refines them."""
        (step,) = steps
        drawn = self.draw(step, scale, run)
        self.place(drawn, step, scale, run)
        self.end(step, drawn, run)
        return drawn.tokens_Bl

    def draw(self, step: Step, scale: int, run: ScaleRun) -> Drawn:
        """Start `step` and draw the tokens of its scale."""
        call = run.call
        call.observer.step_begin(step)
        logits_RlV = self.forward(self.step_input(scale, run), step, run)
        drawn = self.drawn(logits_RlV, step, scale, run)
        if call.known is None:
            return drawn
        return drawn._replace(tokens_Bl=call.known.apply(drawn.tokens_Bl, scale))

    def drawn(self, logits_RlV: Tensor, step: Step, scale: int, run: ScaleRun) -> Drawn:
        """Draw the tokens of `step` from its logits."""
        distribution = self.distribution(step, scale, run)
        return draw_tokens(logits_RlV, distribution, run.call, step, self._kernels, self.sort_all)

    def step_input(self, scale: int, run: ScaleRun) -> Tensor:
        """Input (R, l, C) of the transformer for one scale."""
        model, call = self.transformer, run.call
        if run.condition is None:
            # Computed once per call; its cost counts towards the first step.
            run.condition, run.positions_1LC = model.condition(call.labels_R), model.positions(run.canvas.sides)
            x_RlC = run.condition.start_R1C
        else:
            x_BlC = model.embed(run.canvas.input(scale))
            x_RlC = x_BlC.repeat(2, 1, 1) if call.guided else x_BlC
        placed_RlC: Tensor = x_RlC + self.position(run, scale)
        return placed_RlC

    def forward(self, x_RlC: Tensor, step: Step, run: ScaleRun) -> Tensor:
        """Logits (R, l, V) fp32 of the tokens of one scale, which attend to the cache."""
        return self.transformer.logits(x_RlC, run.condition, self._kernels, cache=run.call.cache)

    def position(self, run: ScaleRun, scale: int) -> Tensor:
        """Position embeddings (1, l, C) of one scale."""
        before = sum(h * w for h, w in run.canvas.sides[:scale])
        h, w = run.canvas.sides[scale]
        return run.positions_1LC[:, before : before + h * w]

    def distribution(self, step: Step, scale: int, run: ScaleRun) -> Distribution:
        """Distribution of the tokens of `step`."""
        settings = run.call.settings
        return Distribution(
            rule=sample_rule(settings.top_k, settings.top_p),
            strength=self.guidance(scale, run.scales, settings) if run.call.guided else None,
            reader="more_smooth" if isinstance(settings, SmoothSettings) and settings.more_smooth else "",
        )

    def guidance(self, scale: int, scales: int, settings: SamplingSettings) -> float:
        """Strength t in (1 + t) cond - t uncond, ramped up linearly from 0 at the first scale to cfg at the last."""
        return settings.cfg * scale / (scales - 1)

    def place(self, drawn: Drawn, step: Step, scale: int, run: ScaleRun) -> None:
        """Place the tokens of one scale on the canvas, or, with `more_smooth`, a mixture of code vectors."""
        if isinstance(run.call.settings, SmoothSettings) and run.call.settings.more_smooth:
            run.canvas.place(self.smooth_codes(drawn, step, scale, run), scale)
        else:
            run.canvas.place_ids(drawn.tokens_Bl, scale, self._kernels)

    def smooth_codes(self, drawn: Drawn, step: Step, scale: int, run: ScaleRun) -> Tensor:
        """Mixed code vectors (B, K, ph, pw) of one scale."""
        call = run.call
        exponential_BlV = call.noise.exponential(drawn.filtered_BlV, step.index)
        progress = scale / (run.scales - 1)
        mixed_BlK = mix_codes(drawn.filtered_BlV, exponential_BlV, progress, self.tokenizer.codebook_VK)
        mixed_BKpp: Tensor = mixed_BlK.transpose(1, 2).unflatten(2, step.map_side)
        if call.known is None:
            return mixed_BKpp
        # Known tokens keep their own code vectors.
        codes_BKpp = run.canvas.lookup(drawn.tokens_Bl, scale)
        keep_B1pp = call.known.keep[scale].unflatten(1, step.map_side).unsqueeze(1)
        return torch.where(keep_B1pp, codes_BKpp, mixed_BKpp)

    def end(self, step: Step, drawn: Drawn, run: ScaleRun, *, redrawn_Bn: Tensor | None = None) -> None:
        """Report the output of `step` to the observer."""
        output = StepOutput(
            logits_pre_cfg=drawn.logits_RlV,
            logits=drawn.logits_BlV,
            tokens=drawn.tokens_Bl,
            redrawn=redrawn_Bn,
            state=run.canvas.state,
        )
        run.call.observer.step_end(step, output)

    def decode_state(self, state: Tensor) -> Tensor:
        return to_unit_range(self.tokenizer.decode_map(self.laid_out(state)))

    def known_tokens(self, known: KnownPixels, settings: SamplingSettings, *, batch: int) -> KnownTokens:
        known.check(self.image_shape(settings), batch)
        keep = keep_per_scale(known.keep.to(self.device), self.sides(settings))
        return KnownTokens(tokens=self.encode(known.images, settings=settings), keep=keep)

    def tokens_of(self, images: Tensor, settings: SamplingSettings) -> tuple[Tensor, ...]:
        return self.tokenizer.encode_scales(images, self.sides(settings))

    @torch.no_grad()
    def state_of(self, tokens: Sequence[Tensor], settings: SamplingSettings) -> Tensor:
        sides = self.sides(settings)
        check_tokens(tokens, sides)
        canvas = self.tokenizer.canvas(sides, len(tokens[0]))
        canvas.place_tokens(tokens, self._kernels)
        return canvas.state

    @torch.no_grad()
    def forced_input(self, tokens: Sequence[Tensor], sides: Sides) -> Tensor:
        """Teacher-forced input (B, L - l_first, K) of every scale but the first; UserError for wrong shapes."""
        check_tokens(tokens, sides)
        return self.tokenizer.canvas(sides, len(tokens[0])).place_tokens(tokens, self._kernels)

    def forced_logits(
        self, tokens: Sequence[Tensor], labels_B: Tensor, settings: SamplingSettings, kernels: KernelSet
    ) -> Tensor:
        sides = self.sides(settings)
        logits_BLV: Tensor = self.transformer(labels_B, self.forced_input(tokens, sides), sides, kernels)
        return logits_BLV

    @property
    def label_drop(self) -> float:
        return cast(NextScaleConfig, self.spec.transformer).cond_drop_rate
