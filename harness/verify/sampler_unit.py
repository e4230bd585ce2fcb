"""Replay of the sampler's own fixture: filters, draws and how much randomness they consume."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.sampling import UpstreamNoise, filter_logits, gumbel_softmax
from arvbench.harness.verify.fixture import Fixture


def replay(fixture: Fixture, backend: str) -> dict[str, Tensor]:
    """Every recorded call, by name; the sampler is the same for all backends."""
    return _calls(fixture) | _gumbel(fixture)


def _calls(fixture: Fixture) -> dict[str, Tensor]:
    produced = {}
    for call in fixture.description["calls"]:
        noise = UpstreamNoise(call["seed"])
        kept = filter_logits(fixture.inputs["logits"], call["top_k"] or None, call["top_p"] or None)
        name = call["index"]
        produced[f"{name}.kept"] = kept.isfinite()
        produced[f"{name}.ids"] = noise.tokens(kept, step=0)
        produced[f"{name}.next_exponential"] = noise.exponential(torch.empty(4), step=0)
    return produced


def _gumbel(fixture: Fixture) -> dict[str, Tensor]:
    produced = {}
    logits = fixture.inputs["logits"]
    for call in fixture.description["gumbel"]:
        exponential = UpstreamNoise(call["seed"]).exponential(logits, step=0)
        weights = gumbel_softmax(logits, exponential, call["tau"])
        if call["hard"]:
            weights = F.one_hot(weights.argmax(dim=-1), weights.shape[-1]).to(weights.dtype)
        produced[f"gumbel.{call['index']}"] = weights
    return produced
