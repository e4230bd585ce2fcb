"""FastVAR and its control on VAR: prune tokens of the last scales, or skip whole scales.

At a pruned scale, attention and feed-forward of a pruned layer each compute the tokens that differ most from the mean,
chosen anew for each of the two. For the others stands the gated output that the same sublayer had at an earlier scale,
resized. Keys and values of pruned tokens never enter the cache. FastVAR's code has no class-conditional VAR: selection
and restoration follow it, the block around them is ours, in the order of its Infinity block.

A skipped scale has no forward pass, draws no tokens and adds no codes. FastVAR skips the two finest scales of Infinity,
which is most of its gain: `skip_scales` alone is the honest control of pruning.

Shapes   R forward rows, l tokens of one scale, n kept tokens, C width
Source   FastVAR (arXiv:2503.23367); behaviour of csguoh/FastVAR at 34cdd65
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, cast

from pydantic import Field
from torch import Tensor

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import KVCache
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.call import SamplingCall
from arvbench.adapters.graphs import Capture, GraphMode
from arvbench.adapters.methods.pruning import distinct_tokens, gather_tokens, kept_count, restore
from arvbench.adapters.next_scale.blocks import AdaLNBlock
from arvbench.adapters.next_scale.sampler import ScaleRun
from arvbench.adapters.next_scale.transformer import head_logits
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.var import VarSampler, VarSettings
from arvbench.adapters.work import StepWork
from arvbench.errors import UserError


class FastVarSettings(VarSettings):
    """VAR's settings and the pruning. Sides are those of square token maps."""

    prune: dict[int, float] = Field(default_factory=dict, description="side of a scale -> share of its tokens to prune")
    prune_layers: tuple[int, ...] | None = Field(default=None, description="layers that prune; None means all")
    cache_side: int | None = Field(default=None, ge=1, description="side of the scale whose outputs stand in")
    skip_scales: int = Field(default=0, ge=0, description="finest scales that are left out altogether")


class Sublayer(NamedTuple):
    """One sublayer of one layer, such as the attention of layer 3."""

    layer: int
    name: str
    """"attn" or "ffn"."""


@dataclass(slots=True, kw_only=True)
class PrunedRun(ScaleRun):
    """A sampling call in progress, with the outputs that stand in for pruned tokens."""

    stored: dict[Sublayer, tuple[Tensor, tuple[int, int]]] = field(default_factory=dict)
    """Gated output (R, m, C) of a sublayer at the cached scale, and that scale's side."""


class FastVarSampler(VarSampler):
    """VAR with pruned or skipped scales."""

    family: ClassVar = "fastvar"

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        chosen, sides = cast(FastVarSettings, settings), cls.sides_of(spec.transformer, settings)
        if chosen.skip_scales >= len(sides):
            raise UserError(f"skip_scales {chosen.skip_scales}: {spec.name} has {len(sides)} scales, and one must stay")
        for side, ratio in chosen.prune.items():
            if (side, side) not in sides or not 0 <= ratio < 1:
                raise UserError(
                    f"prune {{{side}: {ratio:g}}}: take a side of {spec.name}'s scales and a share in 0..1, below 1"
                )
        layers = range(spec.transformer.depth)
        if outside := [layer for layer in chosen.prune_layers or () if layer not in layers]:
            raise UserError(f"prune_layers has {outside[0]}; {spec.name} has layers 0..{layers[-1]}")
        if chosen.prune:
            first = min(sides.index((side, side)) for side in chosen.prune)
            before = sides[:first]
            if chosen.cache_side is None or (chosen.cache_side, chosen.cache_side) not in before:
                raise UserError(
                    f"cache_side {chosen.cache_side} must be the side of a scale before the first pruned one: "
                    f"{', '.join(str(h) for h, _ in before) or 'there is none'}"
                )

    @classmethod
    def check_cache(cls, spec: ModelSpec, policy: str, settings: SamplingSettings) -> None:
        super().check_cache(spec, policy, settings)
        if CACHE_POLICIES[read_request(policy).name].lossy:
            raise UserError(f"{spec.name} prunes tokens: it runs with exact cache policies alone, not with {policy}")

    def use_graphs(self, capture: Callable[[], Capture] | None, mode: GraphMode = "steps") -> None:
        """Run every call: outputs that stand in are kept from step to step."""
        super().use_graphs(None, mode)

    def new_run(self, call: SamplingCall) -> PrunedRun:
        plain = super().new_run(call)
        return PrunedRun(call=call, canvas=plain.canvas)

    def scale_work(self, policy: str, settings: SamplingSettings, *, batch: int) -> list[StepWork]:
        chosen = cast(FastVarSettings, settings)
        works: list[StepWork] = []
        heads, depth = self.spec.transformer.num_heads, self.spec.transformer.depth
        before = (0,) * depth
        plain = super().scale_work(policy, settings, batch=batch)
        for side, work in zip(self.sides(settings), plain[: len(plain) - chosen.skip_scales], strict=False):
            ratio = chosen.prune.get(side[0]) if side[0] == side[1] else None
            queries = tuple(self.computed(work.new, ratio, layer, chosen) for layer in range(depth))
            held = tuple(entries + count * heads for entries, count in zip(before, queries, strict=True))
            works.append(replace(work, queries=queries, reads=held, held=held))
            before = held
        return works

    def forward(self, x_RlC: Tensor, step: Step, run: ScaleRun) -> Tensor:
        settings, model = cast(FastVarSettings, run.call.settings), self.transformer
        pruned = cast(PrunedRun, run)
        ratio = settings.prune.get(step.map_side[0]) if step.map_side[0] == step.map_side[1] else None
        for layer, block in enumerate(model.blocks):
            count = self.computed(step.new_tokens, ratio, layer, settings)
            x_RlC = self._block(x_RlC, (layer, cast(AdaLNBlock, block), count), step, pruned)
        return head_logits(x_RlC, run.condition.head_R12C, model.head, self._kernels, model.config.norm_eps)

    @staticmethod
    def computed(tokens: int, ratio: float | None, layer: int, settings: FastVarSettings) -> int:
        """Tokens of a scale that `layer` computes."""
        layers = settings.prune_layers
        return kept_count(tokens, ratio) if ratio is not None and (layers is None or layer in layers) else tokens

    def _block(self, x_RlC: Tensor, at: tuple[int, AdaLNBlock, int], step: Step, run: PrunedRun) -> Tensor:
        layer, block, count = at
        gate1, gate2, scale1, scale2, shift1, shift2 = run.condition.blocks[layer].unbind(2)
        cache = cast(KVCache, run.call.cache)

        def attention(part_RnC: Tensor) -> Tensor:
            h = self._kernels.adaln_modulate(part_RnC, scale1, shift1, block.norm_eps)
            return cast(Tensor, block.attn(h, layer=layer, cache=cache) * gate1)

        def feed_forward(part_RnC: Tensor) -> Tensor:
            h = self._kernels.adaln_modulate(part_RnC, scale2, shift2, block.norm_eps)
            return cast(Tensor, block.ffn(h) * gate2)

        x_RlC = x_RlC + self._sublayer(x_RlC, attention, Sublayer(layer, "attn"), count, (step, run))
        return x_RlC + self._sublayer(x_RlC, feed_forward, Sublayer(layer, "ffn"), count, (step, run))

    def _sublayer(
        self,
        x_RlC: Tensor,
        compute: Callable[[Tensor], Tensor],
        sublayer: Sublayer,
        count: int,
        at: tuple[Step, PrunedRun],
    ) -> Tensor:
        """Gated output (R, l, C) of a sublayer, of which `count` tokens are computed."""
        step, run = at
        if count < step.new_tokens:
            kept_Rn = distinct_tokens(x_RlC, count)
            self.chose(step, sublayer, kept_Rn)
            stored_RmC, side = run.stored[sublayer]
            return restore(compute(gather_tokens(x_RlC, kept_Rn)), kept_Rn, stored_RmC, (side, step.map_side))
        out_RlC = compute(x_RlC)
        cache_side = cast(FastVarSettings, run.call.settings).cache_side
        if step.map_side == (cache_side, cache_side):
            run.stored[sublayer] = (out_RlC, step.map_side)
        return out_RlC

    def chose(self, step: Step, sublayer: Sublayer, kept_Rn: Tensor) -> None:
        """Take note of a selection; a recorder overrides this."""


class SkipSampler(FastVarSampler):
    """VAR without its finest scales: the honest control of pruning."""

    family: ClassVar = "skip"


def pruned_spec(
    plain: ModelSpec, shares: Sequence[float], *, skip: int = 0, first_layer: int = 0, cache_side: int | None = None
) -> ModelSpec:
    """Spec of a model whose finest scales are pruned by `shares`, the finest last, after `skip` scales are left out.

    Layers before `first_layer` compute all tokens. `cache_side` None is the scale before the first pruned one. Raises
    UserError for shares, scales and layers that the model does not have.
    """
    sides = [height for height, _ in plain.sampler.sides_of(plain.transformer, plain.settings)]
    left = sides[: max(0, len(sides) - skip)]
    if len(shares) >= max(1, len(left)):
        raise UserError(
            f"{len(shares)} pruned scales: {plain.name} has {len(left)} that run, and the first ones stay whole"
        )
    pruned = left[len(left) - len(shares) :]
    if shares and cache_side is None:
        cache_side = left[len(left) - len(shares) - 1]
    depth = plain.transformer.depth
    if not 0 <= first_layer < depth:
        raise UserError(f"from {first_layer}: {plain.name} has layers 0..{depth - 1}")
    settings = FastVarSettings(
        **plain.settings.model_dump(),
        prune=dict(zip(pruned, shares, strict=True)),
        prune_layers=tuple(range(first_layer, depth)) if first_layer else None,
        cache_side=cache_side,
        skip_scales=skip,
    )
    spec = replace(plain, sampler=FastVarSampler if shares else SkipSampler, settings=settings, plain=plain)
    spec.sampler.check_settings(spec, settings)
    return spec
