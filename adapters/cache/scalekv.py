"""ScaleKV: some layers (drafters) keep nearly all tokens, the others (refiners) the few that the scale looks at.

After a layer's attention at a scale, tokens are scored by a few of the scale's own queries, the observation window: a
grid of positions spread over the token map. The score of a token is the sum of its plain dot products with them,
pooled over its neighbours in the cache; the window itself always stays. The queries are bare projections, without bias
and normalisation. This follows the official code, which differs from the paper's text (softmax weights, average
pooling).

Without a calibration file every layer has the same budget. The file of `calibration.py` names the drafters; then a
refiner's budget falls over the scales that are cut from 12/13 of the mean budget (the paper's 600 of 650) to half of
it, and the drafters of the scale share the rest. The last scale is cut as well, as in the official code, although
nothing reads the cache after it.

Shapes   R forward rows, H heads, l new tokens, T cached tokens with the new ones, D head channels, w window tokens
Source   ScaleKV (arXiv:2505.19602); behaviour of StargazerX0/ScaleKV at eb0615a
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.calibration import read_calibration
from arvbench.adapters.cache.policy import AttentionInput, CacheShape, TokenOrder
from arvbench.adapters.cache.request import budget_tokens, check_keys, whole_number
from arvbench.adapters.cache.selecting import Place, SelectingCache, best
from arvbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleKvOptions:
    """Arguments of the selection; defaults are those of the official code."""

    budgets: Mapping[int, tuple[int, ...]]
    """Step -> tokens that stay after it, per layer; other steps cut nothing."""
    base: int
    """Steps up to which at most this many tokens were fed cut nothing."""
    window: int = 16
    kernel: int = 5
    pooling: str = "maxpool"
    """"maxpool" or "avgpool"."""

    def __post_init__(self) -> None:
        if self.pooling not in ("maxpool", "avgpool"):
            raise UserError(f"ScaleKV: pooling {self.pooling!r} is neither maxpool nor avgpool")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"ScaleKV: kernel {self.kernel} must be an odd number")
        if self.window < 1:
            raise UserError(f"ScaleKV: window {self.window} must be at least 1")


class ScaleKvCache(SelectingCache):
    """Budgets by layer and scale; tokens chosen by the window of the current scale."""

    policy = "scalekv"
    runs_on: ClassVar = ("scales",)
    families: ClassVar = "var, flexvar, hmar (with kv_cache=true)"

    def __init__(self, shape: CacheShape, options: ScaleKvOptions) -> None:
        super().__init__(shape)
        self._options = options

    @classmethod
    def make(cls, shape: CacheShape, options: Mapping[str, str]) -> Self:
        chosen = cls._read(cls.followed(shape.order), options, shape.layers)
        return cls(shape, chosen)

    @classmethod
    def check(cls, order: TokenOrder | None, options: Mapping[str, str]) -> None:
        cls._read(cls.followed(order), options, None)

    @classmethod
    def _read(cls, order: TokenOrder, options: Mapping[str, str], layers: int | None) -> ScaleKvOptions:
        """Read the options; `layers` None checks them alone."""
        check_keys(cls.policy, options, ("budget", "calibration", "window", "kernel", "pooling"))
        budget = budget_tokens(cls.policy, options, order)
        window = whole_number(cls.policy, options, "window", 16)
        kernel = whole_number(cls.policy, options, "kernel", 5)
        pooling = options.get("pooling", "maxpool")
        if math.isqrt(window) ** 2 != window:
            raise UserError(f"cache policy scalekv: window {window} must be a square number, such as 4 or 16")
        if budget < 2 * window and budget < sum(order.tokens):
            raise UserError(
                f"cache policy scalekv: budget {budget} leaves refiners, which have half of it in the end, no room for "
                f"their window of {window} tokens: take a larger budget, or window=4 or window=1"
            )
        drafters: Mapping[int, tuple[int, ...]] = {}
        if "calibration" in options:
            calibration = read_calibration(options["calibration"], order, layers)
            drafters, layers = calibration.drafters, calibration.layers
        budgets = layer_budgets(order, budget, drafters, layers or 1)
        return ScaleKvOptions(budgets=budgets, base=budget, window=window, kernel=kernel, pooling=pooling)

    def held(self, place: Place, length: int) -> int:
        # Nothing is cut before `base` is passed, so the tokens fed so far tell when that happened.
        step = place.step
        if step == len(self.order.steps) - 1 and step not in self._options.budgets:
            step -= 1  # the official table ends one scale earlier, and its last entry serves twice
        if step not in self._options.budgets or self.order.before(place.step + 1) <= self._options.base:
            return length
        return self._options.budgets[step][place.layer]

    def select(self, place: Place, new: AttentionInput, k_RHTD: Tensor, keep: int) -> Tensor:
        assert new.projected is not None, "next-scale attention gives its projection"
        length, tokens = k_RHTD.shape[2], new.q_RHlD.shape[2]
        grid = observation_window(self.order.steps[place.step], self._options.window)
        if grid is None:
            positions = list(range(length))[-self._options.window :]
        else:
            positions = [length - tokens + at for at in grid]
        # Positions of earlier scales, which a small scale's window may hold, count with the scale's first query.
        q_RHwD = new.projected()[:, :, [max(0, at - (length - tokens)) for at in positions]]
        in_window_T = torch.zeros(length, dtype=torch.bool, device=k_RHTD.device)
        in_window_T[positions] = True
        return best(self.scores(q_RHwD, k_RHTD, in_window_T), keep, always_T=in_window_T)

    def scores(self, q_RHwD: Tensor, k_RHTD: Tensor, in_window_T: Tensor) -> Tensor:
        """Scores (R, H, T) of all tokens, -inf in the window."""
        dots_RHwT = q_RHwD @ k_RHTD.to(q_RHwD.dtype).transpose(2, 3) / math.sqrt(q_RHwD.shape[-1])
        scores_RHT = dots_RHwT.sum(dim=2).masked_fill(in_window_T, -torch.inf)
        kernel = self._options.kernel
        pool = F.max_pool1d if self._options.pooling == "maxpool" else F.avg_pool1d
        pooled_RHT = pool(scores_RHT.flatten(0, 1), kernel, stride=1, padding=kernel // 2).view_as(scores_RHT)
        return pooled_RHT.masked_fill(in_window_T, -torch.inf)


def observation_window(side: tuple[int, int], count: int) -> list[int] | None:
    """Raster positions of `count` = g x g tokens spread over a map; None for one that is no square or too small."""
    grid = math.isqrt(count)
    height, width = side
    if height != width or height < grid:
        return None
    rows = [i * (height // grid) + (height // grid - 1) // 2 for i in range(grid)]
    return [row * width + column for row in rows for column in rows]


def layer_budgets(
    order: TokenOrder, budget: int, drafters: Mapping[int, tuple[int, ...]], layers: int
) -> dict[int, tuple[int, ...]]:
    """Return the budgets of all layers after every step that cuts; their mean is at most `budget`."""
    cutting = [step for step in range(len(order.steps)) if order.before(step + 1) > budget]
    table: dict[int, tuple[int, ...]] = {}
    for number, step in enumerate(cutting):
        chosen = drafters.get(step, ())
        if not chosen:
            table[step] = (budget,) * layers
            continue
        progress = number / max(1, len(cutting) - 1)
        refiner = max(1, round(budget * (12 / 13 * (1 - progress) + progress / 2)))
        drafter = (budget * layers - refiner * (layers - len(chosen))) // len(chosen)
        table[step] = tuple(drafter if layer in chosen else refiner for layer in range(layers))
    return table
