"""The tokens of one step, drawn from its logits: described once, and drawn by operators or by one kernel.

Families state a `Distribution`. Where the sampler's kernels have a fused `guided_sample` and the noise is
counter-based, that kernel reads the logits of the forward pass and writes ids: nothing of their size lies between.
Everything else is drawn by the operators of `arvbench.adapters.sampling`, from guided and filtered logits.

Shapes   B images, R forward rows (B conditional ones, then, with guidance, B unconditional ones), l tokens of one step,
         V codebook entries
Range    logits natural-log; -inf marks a token that cannot be drawn
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from arvbench.adapters.call import SamplingCall
from arvbench.adapters.sampling import EXCLUDED, PerImageNoise, cfg_mix, filter_logits, interpolate, nucleus
from arvbench.adapters.schedule import Step
from arvbench.kernels.dispatch import KernelSet
from arvbench.kernels.guided_sample.rule import SampleRule

OPERATION = "guided_sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Distribution of the tokens of one step."""

    rule: SampleRule
    strength: float | None
    """Strength of guidance in `rule.mix`; None takes the conditional rows alone."""
    excluded: tuple[int, ...] = ()
    """Ids that are never drawn: EXCLUDED before guidance, -inf after it."""
    cooling: float | None = None
    """Divides the logits that the filters leave, unlike `rule.temperature`."""
    one_by_one: bool = False
    """Position by position, in the order of the official code's random stream (`Noise.tokens`)."""
    reader: str = ""
    """Reader of the filtered logits of this step besides the draw; empty for none."""


class Drawn(NamedTuple):
    """Tokens of one pass and their logits."""

    logits_RlV: Tensor
    logits_BlV: Tensor
    """After guidance; empty where a kernel drew and the observer reads none."""
    filtered_BlV: Tensor
    """After top-k and top-p; empty where `probability_Bl` is there."""
    tokens_Bl: Tensor
    probability_Bl: Tensor | None = None
    """Probability of every token among those that the filters leave; None where operators drew."""


@cache
def sample_rule(
    top_k: int | None,
    top_p: float | None,
    *,
    mix: Literal["extrapolate", "interpolate"] = "extrapolate",
    nucleus: Literal["below", "reached"] = "below",
    temperature: float = 1.0,
) -> SampleRule:
    """Return the rule of settings in which None switches a filter off. Remembered: every step asks for one."""
    return SampleRule(
        mix=mix,
        nucleus=nucleus,
        temperature=temperature,
        top_k=top_k or 0,
        top_p=1.0 if top_p is None else top_p,
    )


def draw_tokens(
    logits_RlV: Tensor, distribution: Distribution, call: SamplingCall, step: Step, kernels: KernelSet, sort_all: bool
) -> Drawn:
    """Draw the tokens of `step`; with `sort_all`, operators do not look at logits on the host (`filter_logits`)."""
    if kernels.names.get(OPERATION, "torch") == "torch":
        return _by_operators(logits_RlV, distribution, call, step, sort_all)
    if reason := _why_not(distribution, call):
        kernels.fallbacks.setdefault(OPERATION, f"torch: {reason}")
        return _by_operators(logits_RlV, distribution, call, step, sort_all)
    return _by_kernel(logits_RlV, distribution, call, step, kernels)


def _why_not(distribution: Distribution, call: SamplingCall) -> str:
    """Return why the kernel cannot draw; "" if it can."""
    if not isinstance(call.noise, PerImageNoise) or not call.noise.kernels_draw:
        return f"{type(call.noise).__name__} draws from logits"
    if distribution.reader:
        return f"{distribution.reader} reads the filtered logits"
    return "logits are divided after the filters" if distribution.cooling is not None else ""


def _by_operators(
    logits_RlV: Tensor, distribution: Distribution, call: SamplingCall, step: Step, sort_all: bool
) -> Drawn:
    logits_BlV = _guided(logits_RlV, distribution, call.schedule.images)
    filtered_BlV = _filtered(logits_BlV, distribution, sort_all)
    tokens_Bl = call.draw(filtered_BlV, step, one_by_one=distribution.one_by_one)
    return Drawn(logits_RlV, logits_BlV, filtered_BlV, tokens_Bl)


def _by_kernel(
    logits_RlV: Tensor, distribution: Distribution, call: SamplingCall, step: Step, kernels: KernelSet
) -> Drawn:
    images, device = call.schedule.images, logits_RlV.device
    given_RlV, strength = logits_RlV, distribution.strength
    logits_BlV = logits_RlV[:0]
    if call.reads_logits or distribution.excluded:
        logits_BlV = _guided(logits_RlV, distribution, images)
    if distribution.excluded:
        given_RlV, strength = _without(logits_BlV, distribution.excluded, -torch.inf), None
    elif strength is None:
        given_RlV = logits_RlV[:images]
    noise = call.noise
    assert isinstance(noise, PerImageNoise)
    draw = kernels.guided_sample(
        given_RlV,
        None if strength is None else _scalar(strength, device),
        noise.counter(step.index, images, device),
        distribution.rule,
    )
    tokens_Bl = call.take(draw, step)
    if tokens_Bl is draw.ids_Bl:
        return Drawn(logits_RlV, logits_BlV, logits_RlV[:0], tokens_Bl, draw.probability_Bl)
    # The noise goes on with other ids, whose probabilities the kernel did not compute.
    filtered_BlV = _filtered(_guided(logits_RlV, distribution, images), distribution, sort_all=True)
    return Drawn(logits_RlV, logits_BlV, filtered_BlV, tokens_Bl)


def _guided(logits_RlV: Tensor, distribution: Distribution, images: int) -> Tensor:
    """Guided logits (B, l, V), before the filters."""
    strength = distribution.strength
    if distribution.excluded:
        logits_RlV = _without(logits_RlV, distribution.excluded, EXCLUDED)
    if strength is None:
        return logits_RlV if len(logits_RlV) == images else logits_RlV[:images]
    return (interpolate if distribution.rule.mix == "interpolate" else cfg_mix)(logits_RlV, strength)


def _filtered(logits_BlV: Tensor, distribution: Distribution, sort_all: bool) -> Tensor:
    """Logits (B, l, V) after temperature, top-k and top-p, -inf for tokens that are not drawn."""
    rule = distribution.rule
    if distribution.excluded:
        # The official code uses -100, which leaves a small probability; -inf excludes the token.
        logits_BlV = _without(logits_BlV, distribution.excluded, -torch.inf)
    if rule.temperature != 1:
        logits_BlV = logits_BlV / rule.temperature
    top_k, top_p = rule.top_k or None, None if rule.top_p == 1 else rule.top_p
    if rule.nucleus == "below":
        logits_BlV = filter_logits(logits_BlV, top_k, top_p, sort_all=sort_all)
    else:
        logits_BlV = filter_logits(logits_BlV, top_k, None)
        logits_BlV = logits_BlV if top_p is None else nucleus(logits_BlV, top_p)
    return logits_BlV if distribution.cooling is None else logits_BlV / distribution.cooling


def _without(logits_XlV: Tensor, ids: tuple[int, ...], value: float) -> Tensor:
    return logits_XlV.index_fill(2, _index(ids, logits_XlV.device), value)


# Remembered for good, because a copy from the host in every step would stall the device, and because recorded calls
# read them where they lie (arvbench.adapters.graphs).
@cache
def _index(ids: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(ids, device=device)


@cache
def _scalar(value: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float64, device=device)
