"""CoDe: a large model drafts the first scales, a small one that shares its tokenizer refines the rest.

The drafter samples scales 0..N-1 as usual. Its cache is dropped. The refiner then reads the canvases of all these
scales and of scale N in one pass, under the block-causal mask, which fills its own cache and gives the logits of scale
N; it goes on scale by scale. Nothing else crosses over: no projection, no hidden state.

Noise: the official code gives each model a generator of its own with the same seed and lets the refiner draw, and throw
away, the tokens of the drafted scales. One generator for both consumes the same stretch of the stream per scale.

Shapes   B images, R forward rows, l tokens of one scale, C width, K code channels
Source   CoDe (arXiv:2411.17787); behaviour of czg1225/CoDe at bfb204d
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import Cache, CacheShape, KVCache
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.call import SamplingCall
from arvbench.adapters.drawing import Distribution, sample_rule
from arvbench.adapters.graphs import Capture, GraphMode
from arvbench.adapters.model_files import Borrowed
from arvbench.adapters.next_scale.cost import StepCost, step_cost
from arvbench.adapters.next_scale.sampler import ScaleRun
from arvbench.adapters.next_scale.transformer import (
    Condition,
    NextScaleConfig,
    NextScaleTransformer,
    block_causal_bias,
    head_logits,
    kernel_scales,
    levels,
)
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.var import VarSampler, VarSettings
from arvbench.adapters.work import StepWork
from arvbench.errors import UserError
from arvbench.kernels.dispatch import KernelSet


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeConfig:
    """Two transformers that draw tokens of one tokenizer at the same scales."""

    drafter: NextScaleConfig
    refiner: NextScaleConfig
    drafter_name: str = "drafter"
    refiner_name: str = "refiner"

    def __post_init__(self) -> None:
        for name, what in (
            ("patch_nums", "scales"),
            ("vocab_size", "a tokenizer"),
            ("code_dim", "a tokenizer"),
            ("num_classes", "classes"),
        ):
            theirs, ours = getattr(self.drafter, name), getattr(self.refiner, name)
            if theirs != ours:
                raise UserError(
                    f"CoDe needs two models that share {what}: {self.drafter_name} has {name} {theirs}, "
                    f"{self.refiner_name} has {ours}"
                )

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        return self.drafter.sides

    @property
    def num_classes(self) -> int:
        return self.drafter.num_classes

    @property
    def cond_drop_rate(self) -> float:
        return self.drafter.cond_drop_rate


class CodeSettings(VarSettings):
    """VAR's settings; filters and temperature may differ by scale."""

    draft_steps: int = Field(ge=1, description="N: scales that the drafter draws")
    top_k_by_scale: tuple[int, ...] | None = Field(
        default=None, description="top-k of every scale, 0 for all tokens; None takes top_k at all of them"
    )
    temperatures: tuple[float, ...] | None = Field(
        default=None, description="divides the logits of every scale after the filters; None is 1 at all of them"
    )


class ByScaleSampler(VarSampler):
    """VAR with filters and a temperature for every scale: the model that CoDe is compared with."""

    def distribution(self, step: Step, scale: int, run: ScaleRun) -> Distribution:
        chosen = cast(CodeSettings, run.call.settings)
        top_k = chosen.top_k if chosen.top_k_by_scale is None else chosen.top_k_by_scale[step.index]
        cooling = None if chosen.temperatures is None else chosen.temperatures[step.index]
        plain = super().distribution(step, scale, run)
        return replace(plain, rule=sample_rule(top_k, chosen.top_p), cooling=cooling)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeShape:
    """Caches of the two models; one of them exists at a time."""

    drafter: CacheShape
    refiner: CacheShape


class CodeCache(KVCache):
    """The cache of the model that is at work, allocated when it begins and dropped when the other takes over."""

    shape: CodeShape  # type: ignore[assignment]

    def __init__(self, shape: CodeShape, kind: type[KVCache]) -> None:
        self.shape, self._kind = shape, kind
        self._at_work: KVCache | None = None
        self._next = shape.drafter

    def refine(self) -> None:
        """Drop the drafter's cache and begin the refiner's."""
        self._at_work, self._next = None, self.shape.refiner

    @property
    def at_work(self) -> KVCache:
        if self._at_work is None:
            self._at_work = self._kind(self._next)
        return self._at_work

    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        return self.at_work.extend(layer, k_RHlD, v_RHlD)

    def live_bytes(self) -> int:
        return 0 if self._at_work is None else self._at_work.live_bytes()

    def allocated_bytes(self) -> int:
        return 0 if self._at_work is None else self._at_work.allocated_bytes()

    def reset(self) -> None:
        self._at_work = None
        self._next = self.shape.drafter


@dataclass(slots=True, kw_only=True)
class CodeRun(ScaleRun):
    """A sampling call in progress, with the canvas inputs that the refiner will read."""

    inputs: list[Tensor] = field(default_factory=list)
    """(B, l, K) of every scale but the first, up to the present one."""


class CodeSampler(ByScaleSampler):
    """A drafter and a refiner behind the sampling interface."""

    family: ClassVar = "code"
    keep_fp32: ClassVar = {**VarSampler.keep_fp32, "refiner": VarSampler.keep_fp32["transformer"]}

    @property
    def refiner(self) -> NextScaleTransformer:
        return cast(NextScaleTransformer, self._modules["refiner"])

    @classmethod
    def build_modules(cls, spec: ModelSpec) -> dict[str, nn.Module]:
        config: CodeConfig = spec.transformer
        return {
            "transformer": cls.transformer_class(config.drafter),
            "refiner": cls.transformer_class(config.refiner),
            "tokenizer": cls.tokenizer_class(spec.tokenizer),
        }

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        chosen, scales = cast(CodeSettings, settings), len(spec.transformer.sides)
        if not 1 <= chosen.draft_steps <= scales - 1:
            raise UserError(
                f"draft_steps {chosen.draft_steps} must be in 1..{scales - 1}: {spec.name} has {scales} scales"
            )
        for name, values in (("top_k_by_scale", chosen.top_k_by_scale), ("temperatures", chosen.temperatures)):
            if values is not None and len(values) != scales:
                raise UserError(f"{name} has {len(values)} values; {spec.name} has {scales} scales")
        if any(not 0 <= k <= spec.tokenizer.vocab_size for k in chosen.top_k_by_scale or ()):
            raise UserError(f"top_k_by_scale must be in 0..{spec.tokenizer.vocab_size}, the vocabulary of {spec.name}")
        if any(not t > 0 for t in chosen.temperatures or ()):
            raise UserError("temperatures must be above 0")
        if chosen.more_smooth:
            raise UserError("CoDe has no more_smooth: its refiner would consume other noise than the drafter")

    @classmethod
    def check_cache(cls, spec: ModelSpec, policy: str, settings: SamplingSettings) -> None:
        super().check_cache(spec, policy, settings)
        if CACHE_POLICIES[read_request(policy).name].lossy:
            raise UserError(f"{spec.name} reads several scales at once: it runs with exact cache policies alone")

    def make_cache(self, policy: str | None, settings: SamplingSettings, *, batch: int) -> Cache:
        policy = self.cache_policy(policy, settings)
        kind = cast(type[KVCache], CACHE_POLICIES[policy])
        cache = CodeCache(self.cache_shape(policy, settings, batch=batch), kind)
        cache.policy = policy
        return cache

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> CodeShape:
        drafted = cast(CodeSettings, settings).draft_steps
        order = self.token_order(self.spec, settings)
        rows, config = self.rows(settings, batch), cast(CodeConfig, self.spec.transformer)
        return CodeShape(
            drafter=self._shape(config.drafter, rows, order.before(drafted)),
            refiner=self._shape(config.refiner, rows, order.before(len(order.steps))),
        )

    def _shape(self, config: NextScaleConfig, rows: int, tokens: int) -> CacheShape:
        return CacheShape(
            layers=config.depth,
            rows=rows,
            heads=config.num_heads,
            head_dim=config.embed_dim // config.num_heads,
            capacity_tokens=tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        shape = self.cache_shape(policy, settings, batch=batch)
        steps: list[Step] = []
        for index, work in enumerate(self.scale_work(policy, settings, batch=batch)):
            drafting = index < cast(CodeSettings, settings).draft_steps
            seen, cost = self._seen(index, settings), self._cost(drafting=drafting)
            first = seen == work.new
            own = shape.drafter if drafting else shape.refiner
            logits = math.prod(self.sides(settings)[index])
            flops = cost.flops(rows=work.rows, images=batch, new=work.new, context=seen, first=first)
            if first and index:
                flops += cost.entry_flops(
                    rows=work.rows, images=batch, embedded=work.new - 1, headless=work.new - logits
                )
            steps.append(
                Step(
                    index=index,
                    kind="scale",
                    side=self.sides(settings)[index],
                    new_tokens=work.new,
                    context_tokens=seen,
                    cached_tokens=seen,
                    rows=work.rows,
                    flops=flops,
                    fp32_flops=cost.fp32_flops(rows=work.rows, logits=logits, first=first),
                    launches=cost.launches,
                    bytes_moved=cost.weight_bytes(first=first)
                    + 4 * work.rows * logits * self.spec.tokenizer.vocab_size
                    + own.bytes_of(seen)
                    + own.bytes_of(work.new),
                    cache_bytes=work.cache_bytes,
                )
            )
        return steps

    def _seen(self, scale: int, settings: SamplingSettings) -> int:
        """Tokens that the model at work has read after `scale`: the refiner reads all of them."""
        return self.token_order(self.spec, settings).before(scale + 1)

    def scale_work(self, policy: str, settings: SamplingSettings, *, batch: int) -> list[StepWork]:
        shape, rows = self.cache_shape(policy, settings, batch=batch), self.rows(settings, batch)
        drafted = cast(CodeSettings, settings).draft_steps
        tokens = list(self.token_order(self.spec, settings).tokens)
        works = []
        for scale, own in enumerate([shape.drafter] * drafted + [shape.refiner] * (len(tokens) - drafted)):
            seen = sum(tokens[: scale + 1])
            new = seen if scale == drafted else tokens[scale]
            held = (seen * own.heads,) * own.layers
            works.append(
                StepWork(
                    rows=rows, new=new, queries=(new,) * own.layers, reads=held, held=held, entry_bytes=own.entry_bytes
                )
            )
        return works

    @property
    def cost(self) -> StepCost:
        return self._cost(drafting=True)

    def _cost(self, *, drafting: bool) -> StepCost:
        config = cast(CodeConfig, self.spec.transformer)
        return step_cost(config.drafter if drafting else config.refiner, self.dtype)

    def use_graphs(self, capture: Callable[[], Capture] | None, mode: GraphMode = "steps") -> None:
        """Run every call: the refiner's cache is made in its middle."""
        super().use_graphs(None, mode)

    def new_run(self, call: SamplingCall) -> CodeRun:
        return CodeRun(call=call, canvas=super().new_run(call).canvas)

    def step_input(self, scale: int, run: ScaleRun) -> Tensor:
        call, drafted = run.call, cast(CodeSettings, run.call.settings).draft_steps
        inputs = cast(CodeRun, run).inputs
        if scale > 0:
            inputs.append(run.canvas.input(scale))
        if scale == drafted:
            cast(CodeCache, call.cache).refine()
        model, entering = self._model(scale, drafted), scale in (0, drafted)
        if entering:
            run.condition, run.positions_1LC = model.condition(call.labels_R), model.positions(run.canvas.sides)
        parts: list[Tensor] = []
        if entering:
            height, width = run.canvas.sides[0]
            parts.append(run.condition.start_R1C.expand(-1, height * width, -1))
        if scale > 0:
            x_BlC = model.embed(torch.cat(inputs, dim=1) if entering else inputs[-1])
            parts.append(x_BlC.repeat(2, 1, 1) if call.guided else x_BlC)
        x_RlC = torch.cat(parts, dim=1)
        end = self.token_order(self.spec, call.settings).before(scale + 1)
        return x_RlC + run.positions_1LC[:, end - x_RlC.shape[1] : end]

    def _model(self, scale: int, drafted: int) -> NextScaleTransformer:
        return self.transformer if scale < drafted else self.refiner

    def forward(self, x_RlC: Tensor, step: Step, run: ScaleRun) -> Tensor:
        drafted = cast(CodeSettings, run.call.settings).draft_steps
        model = self._model(step.index, drafted)
        if step.index != drafted:
            return model.logits(x_RlC, run.condition, self._kernels, cache=run.call.cache)
        sides = run.canvas.sides[: drafted + 1]
        mask = kernel_scales(self._kernels, sides, causal=True) or block_causal_bias(levels(sides)).to(x_RlC)
        condition: Condition = run.condition
        for layer, (block, modulation) in enumerate(zip(model.blocks, condition.blocks, strict=True)):
            x_RlC = block(x_RlC, modulation, self._kernels, layer=layer, cache=run.call.cache, mask=mask)
        # The earlier scales are drawn: only the logits of the last one are needed.
        x_RlC = x_RlC[:, -math.prod(step.map_side) :]
        return head_logits(x_RlC, condition.head_R12C, model.head, self._kernels, model.config.norm_eps)

    def forced_logits(
        self, tokens: Sequence[Tensor], labels_B: Tensor, settings: SamplingSettings, kernels: KernelSet
    ) -> Tensor:
        """Logits (B, L, V): the drafter's for its scales, the refiner's for the others."""
        sides, codes_BLK = self.sides(settings), self.forced_input(tokens, self.sides(settings))
        split = self.token_order(self.spec, settings).before(cast(CodeSettings, settings).draft_steps)
        drafted_BLV, refined_BLV = (
            model(labels_B, codes_BLK, sides, kernels) for model in (self.transformer, self.refiner)
        )
        return torch.cat((drafted_BLV[:, :split], refined_BLV[:, split:]), dim=1)


def code_spec(
    drafter: ModelSpec, refiner: ModelSpec, draft_steps: int, *, refiner_weights: str | None = None
) -> ModelSpec:
    """Spec of CoDe with two models of VAR. Raises UserError unless they share tokenizer, scales and classes.

    `refiner_weights` None: from the same source as the drafter's.
    """
    for spec in (drafter, refiner):
        if spec.sampler is not VarSampler:
            raise UserError(f"CoDe runs two models of the family var: {spec.name} is not one")
    if drafter.tokenizer != refiner.tokenizer:
        raise UserError(f"CoDe needs two models that share a tokenizer: {drafter.name} and {refiner.name} do not")
    settings = CodeSettings(**drafter.settings.model_dump(), draft_steps=draft_steps)
    config = CodeConfig(
        drafter=drafter.transformer,
        refiner=refiner.transformer,
        drafter_name=drafter.name,
        refiner_name=refiner.name,
    )
    return replace(
        drafter,
        sampler=CodeSampler,
        transformer=config,
        settings=settings,
        plain=replace(drafter, sampler=ByScaleSampler, settings=settings),
        borrows=(Borrowed(part="refiner", spec=refiner, weights=refiner_weights),),
    )
