"""Draws by the kernel `guided_sample` in the runs of a fixture, compared with those by operators.

Recorded runs draw from torch's generator, which a kernel cannot. Here the model of the fixture draws from noise of its
own, with all other operations of the reference, so that logits are equal bit for bit and any other id is the kernel's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.adapters.drawing import OPERATION
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.verify.fixture import Check, Fixture
from arvbench.harness.verify.replay import FamilyReplay, Replay, load
from arvbench.kernels.backends import Kernels
from arvbench.kernels.dispatch import KernelSet, select


def drawn_by_kernel(
    replay: Replay, fixture: Fixture, backend: str, device: torch.device, kernels: Kernels
) -> list[Check]:
    """Return a check per run of a model's fixture; none where operators draw."""
    chosen = select(backend, device, kernels)
    if not isinstance(replay, FamilyReplay) or chosen.names[OPERATION] == "torch":
        return []
    sampler = load(fixture, replay.spec(fixture), backend, device)
    if sampler.spec.vocab_size is None:
        return []
    return [_check(name, replay.run_settings(run), fixture, sampler, chosen) for name, run in fixture.runs.items()]


def _check(name: str, settings: SamplingSettings, fixture: Fixture, sampler: Sampler, chosen: KernelSet) -> Check:
    by_operators = select("reference", sampler.device)
    kernel = chosen.names[OPERATION]
    by_kernel = by_operators.replacing(OPERATION, chosen.operations[OPERATION], name=kernel)
    labels = fixture.inputs["labels"][:1]

    def ids(kernels: KernelSet) -> Tensor:
        sampler.use_kernels(kernels)
        return torch.cat(sampler.sample(labels, settings, noise=PerImageNoise(0, [0])).tokens, dim=1)

    difference = float((ids(by_operators) - ids(by_kernel)).abs().max())
    used = "; ".join(filter(None, (sampler.kernels[OPERATION], chosen.fallbacks.get(OPERATION))))
    return Check(
        fixture=fixture.name,
        check=f"{name}.{OPERATION}",
        max_abs_diff=difference,
        tolerance=0.0,
        # What operators drew is no proof of the kernel.
        passed=difference == 0 if used == kernel else None,
        note="" if used == kernel else used,
    )
