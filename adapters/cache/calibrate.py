"""Making a calibration: which layers are drafters (ScaleKV) and which heads are contextual (HACK), by their attention.

The model draws images with a cache that keeps everything, and the attention of every layer is added up.

Drafters    After the paper's text, whose code is not public: the selectivity of a layer at a scale is the mean share of
            attention on the scale's own tokens, times the mean share on the most attended tokens before it. It is made
            comparable by the z-score over the layers of the scale, and the pairs (scale, layer) with the lowest score
            are drafters: their attention is spread over the history, so they need most of it. How many tokens are "the
            most attended" the paper leaves open, as it does the number of drafters: 16, the size of the observation
            window, and a share of the pairs; the shipped tables of the official code imply 6 and 8 % of them.
Contextual  At the last scale, the variance over queries of the attention to every key, summed over keys; the heads of
            the model with the lowest are contextual. Their share is not published: the caller chooses it.

Both average over rows (both halves of guidance count, since each keeps tokens of its own) and images.

Shapes   R forward rows, H heads, l new tokens, T cached tokens with the new ones, S scales, N layers
Source   ScaleKV (arXiv:2505.19602); HACK (arXiv:2504.09261), second-hand
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.calibration import Calibration, weights_identity
from arvbench.adapters.cache.grow import GrowCache
from arvbench.adapters.cache.hack import attention_weights, column_variance
from arvbench.adapters.cache.policy import AttentionInput, CacheShape
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError, shown

MOST_ATTENDED = 16
"""Tokens of the history whose attention counts as selective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """Images to draw, and the shares of drafters and contextual heads."""

    labels: Sequence[int]
    """Class of every image."""
    seed: int = 0
    """Run seed of the noise."""
    batch: int = 8
    drafters: float = 1 / 16
    """Share of the pairs of a layer and a scale from the second on."""
    contextual: float = 0.5
    """Share of all heads of the model."""

    def __post_init__(self) -> None:
        for name, share in (("drafters", self.drafters), ("contextual", self.contextual)):
            if not 0 < share < 1:
                raise UserError(f"{name}: {shown(str(share))} must be a share above 0 and below 1")


class AttentionStatistics:
    """Sums over rows of what decides the kind of layers and heads."""

    def __init__(self, steps: int, layers: int, heads: int) -> None:
        self._selectivity_SN = torch.zeros(steps, layers, dtype=torch.float64)
        self._rows_SN = torch.zeros(steps, layers, dtype=torch.float64)
        self._variance_NH = torch.zeros(layers, heads, dtype=torch.float64)
        self._rows_NH = torch.zeros(layers, heads, dtype=torch.float64)

    def add(self, step: int, layer: int, weights_RHlT: Tensor) -> None:
        """Add the attention of one layer at one step."""
        self._selectivity_SN[step, layer] += float(selectivity(weights_RHlT).double().sum())
        self._rows_SN[step, layer] += len(weights_RHlT)
        if step == len(self._rows_SN) - 1:
            self.add_last(layer, range(weights_RHlT.shape[1]), weights_RHlT)

    def add_last(self, layer: int, heads: Sequence[int], weights_RHlT: Tensor) -> None:
        """Add the attention of `heads` at the last scale."""
        self._variance_NH[layer, list(heads)] += column_variance(weights_RHlT).double().sum(dim=0).cpu()
        self._rows_NH[layer, list(heads)] += len(weights_RHlT)

    @property
    def selectivity_SN(self) -> Tensor:
        """Mean over rows; 0 at the first scale, which has no history."""
        return self._selectivity_SN / self._rows_SN

    @property
    def variance_NH(self) -> Tensor:
        """Mean over rows, at the last scale."""
        return self._variance_NH / self._rows_NH

    def drafters(self, share: float) -> dict[int, tuple[int, ...]]:
        """Return the layers of every scale whose score is among the lowest `share` of all pairs, at least one."""
        z_SN = z_scores(self.selectivity_SN[1:])
        chosen = _lowest(z_SN, share)
        return {step + 1: tuple(row.nonzero().flatten().tolist()) for step, row in enumerate(chosen) if row.any()}

    def head_order(self) -> Tensor:
        """Heads of all layers by ascending variance, layer * H + head each."""
        return self.variance_NH.flatten().argsort(stable=True)

    def contextual(self, share: float) -> tuple[tuple[int, ...], ...]:
        """Return the heads of every layer that are among the lowest `share` of all, at least one."""
        return tuple(tuple(row.nonzero().flatten().tolist()) for row in _lowest(self.variance_NH, share))


def selectivity(weights_RHlT: Tensor) -> Tensor:
    """Share of attention on the scale's own tokens times that on the most attended earlier ones, (R,).

    Both are means over heads and queries.
    """
    own = weights_RHlT.shape[2]
    history_RHlt = weights_RHlT[..., :-own]
    most = history_RHlt.topk(min(MOST_ATTENDED, history_RHlt.shape[-1]), dim=-1).values
    return weights_RHlT[..., -own:].sum(dim=-1).mean(dim=(1, 2)) * most.sum(dim=-1).mean(dim=(1, 2))


def z_scores(values_SN: Tensor) -> Tensor:
    """Distance from the mean over the layers of a scale, in standard deviations; 0 where all are equal."""
    spread_S1 = values_SN.std(dim=1, correction=0, keepdim=True)
    return torch.where(spread_S1 > 0, (values_SN - values_SN.mean(dim=1, keepdim=True)) / spread_S1, 0.0)


def _lowest(values: Tensor, share: float) -> Tensor:
    """Mark (bool) the lowest `share` of all values, at least one; of equal ones the first."""
    count = max(1, math.floor(share * values.numel() + 0.5))
    marked = torch.zeros(values.numel(), dtype=torch.bool)
    marked[values.flatten().argsort(stable=True)[:count]] = True
    return marked.view(values.shape)


class WatchedCache(GrowCache):
    """Keeps all tokens, as `grow` does, and tells `statistics` of every attention."""

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape)
        assert shape.order is not None, "the caller refuses families without an order"
        self.statistics = AttentionStatistics(len(shape.order.steps), shape.layers, shape.heads)
        self._steps = [0] * shape.layers

    def reset(self) -> None:
        super().reset()
        self._steps = [0] * self.shape.layers

    def attend(self, layer: int, new: AttentionInput) -> Tensor:
        k_RHTD, v_RHTD = self.extend(layer, new.k_RHlD, new.v_RHlD)
        step = self._steps[layer]
        self._steps[layer] += 1
        for row in range(len(new.q_RHlD)):  # the weights of all rows at once would be the largest tensor of the call
            part = slice(row, row + 1)
            weights_1HlT = attention_weights(new.q_RHlD[part], k_RHTD[part], new.softmax_scale, new.bias_llT)
            self.statistics.add(step, layer, weights_1HlT)
        return F.scaled_dot_product_attention(new.q_RHlD, k_RHTD, v_RHTD, attn_mask=new.bias_llT, scale=new.scale)


def calibrate(sampler: Sampler, settings: SamplingSettings, request: CalibrationRequest) -> Calibration:
    """Draw the images of `request` and return the calibration of the sampler's model and weights.

    Raises UserError for a family without scales or without keys and values, with the families that have them.
    """
    sampler.check_cache(sampler.spec, "hack:1.0", settings)
    statistics = None
    for start in range(0, len(request.labels), request.batch):
        labels = request.labels[start : start + request.batch]
        cache = WatchedCache(sampler.cache_shape("grow", settings, batch=len(labels)))
        statistics = cache.statistics = statistics or cache.statistics
        noise = PerImageNoise(request.seed, range(start, start + len(labels)))
        sampler.sample(labels, settings, noise=noise, cache=cache)
    assert statistics is not None, "a request has at least one image"
    shape = cache.shape
    assert shape.order is not None
    return Calibration(
        model=sampler.spec.name,
        layers=shape.layers,
        heads=shape.heads,
        sides=shape.order.steps,
        drafters=statistics.drafters(request.drafters),
        contextual=statistics.contextual(request.contextual),
        weights=weights_identity(sampler.weights),
        made=_made(settings, request, statistics),
    )


def _made(settings: SamplingSettings, request: CalibrationRequest, statistics: AttentionStatistics) -> dict[str, Any]:
    selectivity_SN, variance_NH = statistics.selectivity_SN, statistics.variance_NH
    return {
        "images": len(request.labels),
        "seed": request.seed,
        "settings": settings.model_dump(mode="json"),
        "drafters": request.drafters,
        "contextual": request.contextual,
        "most_attended": MOST_ATTENDED,
        "selectivity": [[float(f"{value:.6g}") for value in row] for row in selectivity_SN.tolist()],
        "column_variance": [[float(f"{value:.6g}") for value in row] for row in variance_NH.tolist()],
    }
