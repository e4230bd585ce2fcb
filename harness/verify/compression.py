"""Replay of compressed caches and pruned tokens: ScaleKV, FastVAR and, from its paper, HACK.

Fixtures record which tokens stay, as positions over all scales for caches and inside the scale for pruning.

Shapes   R forward rows, H heads, l new tokens, n kept tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from arvbench.adapters.cache.calibrate import AttentionStatistics
from arvbench.adapters.cache.hack import HackCache, HackOptions, attention_weights, column_variance
from arvbench.adapters.cache.policy import AttentionInput, Cache, CacheShape, TokenOrder
from arvbench.adapters.cache.scalekv import ScaleKvCache, ScaleKvOptions
from arvbench.adapters.cache.selecting import Place, SelectingCache
from arvbench.adapters.methods.fastvar import FastVarSampler, FastVarSettings, Sublayer
from arvbench.adapters.methods.pruning import distinct_tokens, gather_tokens, kept_count, restore
from arvbench.adapters.next_scale.sampler import NextScaleSampler
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.verify.fixture import Fixture, padded
from arvbench.harness.verify.next_scale import NextScaleReplay
from arvbench.harness.verify.replay import Outputs, Replay, Run, Tolerances, unit_outputs
from arvbench.kernels.backends import Kernels


class PositionedCache(SelectingCache):
    """Stores the position of every token beside its key and value."""

    def more(self, place: Place, new: AttentionInput) -> tuple[Tensor, ...]:
        start, tokens = self.order.before(place.step), self.order.tokens[place.step]
        at_l = torch.arange(start, start + tokens, device=new.k_RHlD.device)
        return (at_l[:, None].expand(*new.k_RHlD.shape[:2], -1, 1),)

    def positions(self, layer: int) -> list[tuple[tuple[int, ...], Tensor]]:
        """Heads and their positions (R, H, n), group by group."""
        return [(heads, stored[2].squeeze(-1)) for (at, heads), stored in self._stored.items() if at == layer]

    def keys(self, layer: int) -> Tensor:
        """Keys (R, H, n, D) of a layer whose heads all keep the same number."""
        return self._stored[layer, tuple(range(self.shape.heads))][0]


class RecordedScaleKv(PositionedCache, ScaleKvCache):
    """Notes what stays after every cut."""

    def __init__(self, shape: CacheShape, options: ScaleKvOptions, kept: Outputs) -> None:
        self.kept = kept
        super().__init__(shape, options)

    def attend(self, layer: int, new: AttentionInput) -> Tensor:
        step = self._steps[layer]
        out_RHlD = super().attend(layer, new)
        ((_, positions_RHn),) = self.positions(layer)
        self.kept[f"kept.{step}.{layer}"] = positions_RHn
        return out_RHlD


def scalekv_options(given: Mapping[str, Any], budgets: Mapping[int, tuple[int, ...]]) -> ScaleKvOptions:
    """Return our options for official arguments."""
    return ScaleKvOptions(
        budgets=budgets,
        base=given["base_capacity"],
        window=given["window_size"],
        kernel=given["kernel_size"],
        pooling=given["pooling"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleKvReplay(NextScaleReplay):
    """Runs of VAR whose cache is cut."""

    def compressed(
        self, sampler: NextScaleSampler, settings: SamplingSettings, run: Run, batch: int
    ) -> tuple[Cache | None, Outputs]:
        given, kept = run["compression"], Outputs()
        budgets = {int(step): tuple(layers) for step, layers in given["budget_after_scale"].items()}
        shape = sampler.cache_shape("scalekv:1.0", settings, batch=batch)
        cache = RecordedScaleKv(shape, scalekv_options(given, budgets), kept)
        cache.policy = "scalekv:1.0"  # for the plan alone, which no fixture holds
        return cache, kept


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleKvUnitReplay(Replay):
    """The selection of one layer on given queries and keys."""

    tolerances: Tolerances = (("", 1e-6),)

    def outputs(self, fixture: Fixture, backend: str, device: torch.device, kernels: Kernels = "backend") -> Outputs:
        def replay(name: str, case: Mapping[str, Any]) -> Outputs:
            budgets = {int(step): (budget,) for step, budget in case["budget_after_scale"].items()}
            cache = RecordedScaleKv(_unit_shape(case, device), scalekv_options(case, budgets), outputs := Outputs())
            for step in range(len(case["sides"])):
                _feed(cache, fixture, (name, step), device)
                outputs[f"k.{step}"] = cache.keys(0)
            return {key.removesuffix(".0") if key.startswith("kept.") else key: t for key, t in outputs.items()}

        return unit_outputs(fixture, replay)


class RecordedHack(PositionedCache, HackCache):
    """Notes the variance of the last scale's attention, head by head since they keep different tokens."""

    def reset(self) -> None:
        super().reset()
        self.variance: dict[int, Tensor] = {}
        self.statistics = AttentionStatistics(len(self.order.steps), self.shape.layers, self.shape.heads)

    def attend(self, layer: int, new: AttentionInput) -> Tensor:
        step = self._steps[layer]
        for heads in self.groups(layer) if step == len(self.order.steps) - 1 else ():
            k_RHTD = torch.cat((self._stored[layer, heads][0], new.k_RHlD[:, list(heads)]), dim=2)
            weights = attention_weights(new.q_RHlD[:, list(heads)], k_RHTD, new.softmax_scale)
            self.statistics.add_last(layer, heads, weights)
            self.variance |= dict(zip(heads, column_variance(weights).unbind(1), strict=True))
        return super().attend(layer, new)


@dataclass(frozen=True, slots=True, kw_only=True)
class HackUnitReplay(Replay):
    """The selection of one layer as the paper describes it; no official code stands behind it."""

    tolerances: Tolerances = (("", 1e-5),)

    def outputs(self, fixture: Fixture, backend: str, device: torch.device, kernels: Kernels = "backend") -> Outputs:
        def replay(name: str, case: Mapping[str, Any]) -> Outputs:
            options = HackOptions(
                contextual=(tuple(case["contextual_heads"]),),
                contextual_budget=case["budget_contextual"],
                structural_budget=case["budget_structural"],
                first=case["n_init"],
                observed=case["n_obs"],
            )
            cache, outputs = RecordedHack(_unit_shape(case, device), options), Outputs()
            for step in range(len(case["sides"])):
                _feed(cache, fixture, (name, step), device, scale=case["softmax_scale"])
                outputs[f"kept.{step}"] = _by_head(cache, 0)
            variance_RH = torch.stack([cache.variance[head] for head in range(case["H"])], dim=1)
            return outputs | {"column_variance": variance_RH, "head_order": cache.statistics.head_order()}

        return unit_outputs(fixture, replay)


def _unit_shape(case: Mapping[str, Any], device: torch.device) -> CacheShape:
    sides = tuple((side, side) if isinstance(side, int) else tuple(side) for side in case["sides"])
    order = TokenOrder(kind="scales", steps=cast(tuple[tuple[int, int], ...], sides))
    return CacheShape(
        layers=1,
        rows=case["B"],
        heads=case["H"],
        head_dim=case["head_dim"],
        capacity_tokens=sum(order.tokens),
        dtype=torch.float32,
        device=device,
        order=order,
    )


def _feed(
    cache: SelectingCache, fixture: Fixture, at: tuple[str, int], device: torch.device, scale: float | None = None
) -> None:
    """Attend with the recorded queries and keys of a (case, step); keys stand for values, which choose nothing."""
    name, step = at
    q_RHlD, k_RHlD = (fixture.inputs[f"{name}.{part}.{step}"].to(device) for part in ("q", "k"))
    cache.attend(0, AttentionInput(q_RHlD, k_RHlD, k_RHlD, scale, projected=lambda: q_RHlD))


def _by_head(cache: PositionedCache, layer: int) -> Tensor:
    """Positions (R, H, n) of all heads, filled up to the longest."""
    groups = cache.positions(layer)
    longest = max(positions.shape[-1] for _, positions in groups)
    by_head = {
        head: row
        for heads, positions in groups
        for head, row in zip(heads, padded(positions, longest).unbind(1), strict=True)
    }
    return torch.stack([by_head[head] for head in sorted(by_head)], dim=1)


class RecordedFastVar(FastVarSampler):
    """Notes which tokens are computed."""

    kept: Outputs

    def chose(self, step: Step, sublayer: Sublayer, kept_Rn: Tensor) -> None:
        self.kept[f"kept.{step.index}.{sublayer.layer}.{sublayer.name}"] = kept_Rn


def fastvar_settings(run: Run) -> FastVarSettings:
    """Return our settings for official arguments, in which 0 switches a filter off."""
    pruning = run["pruning"]
    return FastVarSettings(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        prune={int(side): ratio for side, ratio in pruning["ratio"].items()},
        prune_layers=tuple(pruning["layers"]),
        cache_side=pruning["cache_side"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FastVarReplay(NextScaleReplay):
    """Runs of VAR with pruned tokens."""

    def compressed(
        self, sampler: NextScaleSampler, settings: SamplingSettings, run: Run, batch: int
    ) -> tuple[Cache | None, Outputs]:
        kept = cast(RecordedFastVar, sampler).kept = Outputs()
        return None, kept


@dataclass(frozen=True, slots=True, kw_only=True)
class FastVarUnitReplay(Replay):
    """Selection and restoration on given tensors."""

    tolerances: Tolerances = (("", 1e-6),)

    def outputs(self, fixture: Fixture, backend: str, device: torch.device, kernels: Kernels = "backend") -> Outputs:
        def replay(name: str, case: Mapping[str, Any]) -> Outputs:
            x, cached, y = (fixture.inputs[f"{name}.{part}"].to(device) for part in ("x", "cache", "y"))
            kept_Rn = distinct_tokens(x, kept_count(x.shape[1], case["ratio"]))
            sides = (tuple(case["cache_side"]), tuple(case["side"]))
            return {"kept": kept_Rn, "restored": restore(gather_tokens(y, kept_Rn), kept_Rn, cached, cast(Any, sides))}

        return unit_outputs(fixture, replay)
