"""Replay of the sampler's unit fixture: filters, drawn tokens, and consumed randomness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.sampling import UpstreamNoise, filter_logits, gumbel_softmax
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.replay import Outputs, Replay, Tolerances
from arvbench.kernels.backends import Kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerUnitReplay(Replay):
    """Replay of every recorded call; all backends share these functions."""

    tolerances: Tolerances = (("", 1e-5),)

    def outputs(self, fixture: Fixture, backend: str, device: torch.device, kernels: Kernels = "backend") -> Outputs:
        logits = fixture.inputs["logits"].to(device)
        return _draws(fixture, logits) | _gumbel(fixture, logits)


def _draws(fixture: Fixture, logits: Tensor) -> Outputs:
    outputs = {}
    for call in fixture.description["calls"]:
        noise = UpstreamNoise(call["seed"])
        kept = filter_logits(logits, call["top_k"] or None, call["top_p"] or None)
        name = call["index"]
        outputs[f"{name}.kept"] = kept.isfinite()
        outputs[f"{name}.ids"] = noise.tokens(kept, step=0)
        outputs[f"{name}.next_exponential"] = noise.exponential(torch.empty(4), step=0)
    return outputs


def _gumbel(fixture: Fixture, logits: Tensor) -> Outputs:
    outputs = {}
    for call in fixture.description["gumbel"]:
        exponential = UpstreamNoise(call["seed"]).exponential(logits, step=0)
        weights = gumbel_softmax(logits, exponential, call["tau"])
        if call["hard"]:
            weights = F.one_hot(weights.argmax(dim=-1), weights.shape[-1]).to(weights.dtype)
        outputs[f"gumbel.{call['index']}"] = weights
    return outputs
