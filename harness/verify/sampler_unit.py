"""Replay of the sampler's own fixture: filters, draws and how much randomness they consume."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.sampling import UpstreamNoise, filter_logits, gumbel_softmax
from arvbench.harness.verify.fixture import Fixture


def replay(fixture: Fixture, backend: str, device: torch.device) -> dict[str, Tensor]:
    """Every recorded call, by name; all backends share these functions."""
    logits = fixture.inputs["logits"].to(device)
    return _calls(fixture, logits) | _gumbel(fixture, logits)


def _calls(fixture: Fixture, logits: Tensor) -> dict[str, Tensor]:
    produced = {}
    for call in fixture.description["calls"]:
        noise = UpstreamNoise(call["seed"])
        kept = filter_logits(logits, call["top_k"] or None, call["top_p"] or None)
        name = call["index"]
        produced[f"{name}.kept"] = kept.isfinite()
        produced[f"{name}.ids"] = noise.tokens(kept, step=0)
        produced[f"{name}.next_exponential"] = noise.exponential(torch.empty(4), step=0)
    return produced


def _gumbel(fixture: Fixture, logits: Tensor) -> dict[str, Tensor]:
    produced = {}
    for call in fixture.description["gumbel"]:
        exponential = UpstreamNoise(call["seed"]).exponential(logits, step=0)
        weights = gumbel_softmax(logits, exponential, call["tau"])
        if call["hard"]:
            weights = F.one_hot(weights.argmax(dim=-1), weights.shape[-1]).to(weights.dtype)
        produced[f"gumbel.{call['index']}"] = weights
    return produced
