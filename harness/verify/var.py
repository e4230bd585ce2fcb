"""Replay of a VAR fixture: every recorded run through our sampler, under the fixture's names.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, S scales
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from arvbench.adapters.sampler import NULL_LABEL, ModelSpec
from arvbench.adapters.settings import Backend
from arvbench.adapters.tokenizers.multiscale_vq import VqVaeConfig
from arvbench.adapters.var import VarConfig, VarSampler, VarSettings, var_spec
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.next_scale import (
    build,
    config_from,
    generate,
    hidden_states,
    prefixed,
    residual_tokenizer,
    run_outputs,
    split_scales,
)


def replay(fixture: Fixture, backend: str, device: torch.device) -> dict[str, Tensor]:
    """Everything that the fixture may have recorded, by name."""
    sampler: VarSampler = build(fixture, fixture_spec(fixture), cast(Backend, backend), device)
    produced: dict[str, Tensor] = {}
    for name, run in fixture.runs.items():
        samples, recorder = generate(sampler, fixture, run, settings_of(run))
        produced |= prefixed(name, run_outputs(samples, recorder.outputs))
    produced |= prefixed("tf", teacher_forced(sampler, fixture))
    produced |= prefixed("vae", residual_tokenizer(sampler, fixture))
    return produced


def fixture_spec(fixture: Fixture) -> ModelSpec:
    """The spec of the model that the fixture was recorded on. Raises FixtureError for arguments we do not have."""
    tokenizer = config_from(VqVaeConfig, fixture.tokenizer_args)
    sizes = {"vocab_size": tokenizer.vocab_size, "code_dim": tokenizer.z_channels}
    transformer = config_from(VarConfig, {**fixture.model_args, **sizes})
    return var_spec(fixture.name, transformer, tokenizer, VarSettings(cfg=0), "fixture")


def settings_of(run: Mapping[str, Any]) -> VarSettings:
    """Our settings for a run's official arguments, in which 0 switches a filter off."""
    return VarSettings(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        more_smooth=run.get("more_smooth", False),
    )


@torch.inference_mode()
def teacher_forced(sampler: VarSampler, fixture: Fixture) -> dict[str, Tensor]:
    """Outputs of the training pass."""
    tokens, labels = split_scales(sampler, fixture.inputs["tf_ids"]), fixture.inputs["labels"]
    with hidden_states(sampler.transformer.blocks) as hidden:
        logits = sampler.teacher_forced(tokens, labels)
    return {
        "input": sampler.tokenizer.quantize.teacher_forcing_input(tokens),
        "logits": logits,
        "hidden": torch.stack(hidden),
        "logits_uncond": sampler.teacher_forced(tokens, [NULL_LABEL] * len(labels)),
    }
