"""Replay of a FlexVAR fixture: every recorded run, each with scales of its own, under the fixture's names.

Official images are the raw output of the decoder, nominally in [-1, 1]; ours are mapped to [0, 1] and mapped back here.

Shapes   B images, R forward rows, L tokens of all scales, K code channels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from arvbench.adapters.flexvar.sampler import FlexVarConfig, FlexVarSampler, FlexVarSettings, flexvar_spec
from arvbench.adapters.sampler import NULL_LABEL, ModelSpec
from arvbench.adapters.settings import Backend
from arvbench.adapters.tokenizers.vq import VqConfig
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.mvar import recorded
from arvbench.harness.verify.next_scale import (
    build,
    config_from,
    generate,
    hidden_states,
    numbered,
    prefixed,
    run_outputs,
    split_scales,
)

_TRAINING_ONLY = ("token_dropout_p", "dropout_p", "commit_loss_beta", "entropy_loss_ratio", "codebook_show_usage")


def replay(fixture: Fixture, backend: str, device: torch.device) -> dict[str, Tensor]:
    """Everything that the fixture may have recorded, by name."""
    sampler: FlexVarSampler = build(fixture, fixture_spec(fixture), cast(Backend, backend), device)
    produced: dict[str, Tensor] = {}
    for name, run in fixture.runs.items():
        produced |= prefixed(name, _run(sampler, fixture, run))
    produced |= prefixed("tf", _teacher_forced(sampler, fixture))
    produced |= prefixed("vae", _tokenizer(sampler, fixture))
    return produced


def fixture_spec(fixture: Fixture) -> ModelSpec:
    """The spec of the model that the fixture was recorded on, with the scales of its teacher forcing as the official
    ones. Raises FixtureError for arguments we do not have.
    """
    description = fixture.description
    tokenizer = config_from(VqConfig, fixture.tokenizer_args, no_effect=_TRAINING_ONLY)
    sizes = {"vocab_size": tokenizer.vocab_size, "code_dim": tokenizer.codebook_embed_dim}
    transformer = config_from(FlexVarConfig, {**fixture.model_args, **sizes}, no_effect=_TRAINING_ONLY)
    scales = description["tf_patch_nums"] if "tf_patch_nums" in description else description["inputs"]["tf_patch_nums"]
    return flexvar_spec(fixture.name, transformer, tokenizer, FlexVarSettings(cfg=0, scales=tuple(scales)), "fixture")


def settings_of(run: Mapping[str, Any]) -> FlexVarSettings:
    """Our settings for a run's official arguments, in which 0 switches a filter off and 16 is the default max_pn."""
    return FlexVarSettings(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        scales=tuple(run["infer_patch_nums"]),
        max_pn=run.get("max_pn", 16),
        invalid_ids=tuple(run.get("invalid_ids") or ()),
        cfg_style="constant" if run.get("used_llamagen_cfg") else "ramp",
    )


def _run(sampler: FlexVarSampler, fixture: Fixture, run: Mapping[str, Any]) -> dict[str, Tensor]:
    settings = settings_of(run)
    with recorded([sampler.transformer.word_embed]) as (embedded,):
        samples, recorder = generate(sampler, fixture, run, settings)
    shown = [codes_BlK for codes_BlK, _ in embedded]
    return {
        **run_outputs(samples, recorder.outputs),
        "image": _raw(samples.decoded),
        "effective_top_k": torch.tensor([sampler.top_k(step.side, settings) or 0 for step in recorder.steps]),
        "next_quant": torch.cat(shown, dim=1),
        **numbered("next_quant", shown),
    }


@torch.inference_mode()
def _teacher_forced(sampler: FlexVarSampler, fixture: Fixture) -> dict[str, Tensor]:
    tokens, labels = split_scales(sampler, fixture.inputs["tf_ids"]), fixture.inputs["labels"]
    with hidden_states(sampler.transformer.blocks) as hidden:
        logits = sampler.teacher_forced(tokens, labels)
    return {
        "input": sampler.forced_input(tokens, sampler.sides(sampler.spec.settings)),
        "logits": logits,
        "hidden": torch.stack(hidden),
        **numbered("hidden", hidden),
        "logits_uncond": sampler.teacher_forced(tokens, [NULL_LABEL] * len(labels)),
    }


@torch.inference_mode()
def _tokenizer(sampler: FlexVarSampler, fixture: Fixture) -> dict[str, Tensor]:
    images, sides = fixture.inputs["image"].to(sampler.device), sampler.sides(sampler.spec.settings)
    ids, known = sampler.encode(images), split_scales(sampler, fixture.inputs["tf_ids"])
    tokenizer = sampler.tokenizer
    return {
        "enc_conti": tokenizer.features(images),
        "enc_ids": torch.cat(ids, dim=1),
        "enc_tf_input": sampler.forced_input(ids, sides),
        "ms_quant_last": tokenizer.quantize.lookup(ids[-1], sides[-1]),
        "rec_last": _raw(sampler.decode(ids)),
        "dec_tf_last": _raw(sampler.decode(known)),
        "dec_tf_mid": tokenizer.decode(known[-2], sides[-2]),
    }


def _raw(decoded: Tensor) -> Tensor:
    """(B, 3, H, W) as the decoder returned it."""
    return decoded * 2 - 1
