"""Replay of an HMAR fixture: both predictions, and every decision of mask refinement.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, n masked positions, K code channels
Names    `ns` next-scale prediction; `.s.k` the k-th refinement of scale s; `nsp`, `mp` the two training passes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from arvbench.adapters.hmar.refinement import NO_REFINEMENT, confidence
from arvbench.adapters.hmar.sampler import HmarConfig, HmarSampler, HmarSettings, hmar_spec
from arvbench.adapters.next_scale.sampler import ScaleDraw, ScaleRun
from arvbench.adapters.sampler import ModelSpec, Samples, StepOutput
from arvbench.adapters.settings import Backend
from arvbench.adapters.tokenizers.multiscale_vq import VqVaeConfig
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.next_scale import (
    Recorder,
    build,
    config_from,
    generate,
    numbered,
    prefixed,
    residual_tokenizer,
    split_scales,
)


def replay(fixture: Fixture, backend: str, device: torch.device) -> dict[str, Tensor]:
    """Everything that the fixture may have recorded, by name."""
    sampler: _Watched = build(fixture, fixture_spec(fixture), cast(Backend, backend), device)
    produced: dict[str, Tensor] = {}
    for name, run in fixture.runs.items():
        sampler.refinements = []
        samples, recorder = generate(sampler, fixture, run, settings_of(run))
        produced |= prefixed(name, _run_outputs(samples, recorder, sampler.refinements))
    if "mp.idx_to_mask" in fixture.inputs:
        produced |= _training_passes(sampler, fixture)
    produced |= prefixed("vae", residual_tokenizer(sampler, fixture))
    return produced


def fixture_spec(fixture: Fixture) -> ModelSpec:
    """The spec of the model that the fixture was recorded on. Raises FixtureError for arguments we do not have."""
    tokenizer = config_from(VqVaeConfig, fixture.tokenizer_args)
    sizes = {"vocab_size": tokenizer.vocab_size, "code_dim": tokenizer.z_channels}
    transformer = config_from(HmarConfig, {**fixture.model_args, **sizes})
    spec = hmar_spec(fixture.name, transformer, tokenizer, HmarSettings(cfg=0), "fixture")
    return replace(spec, sampler=_Watched)


def settings_of(run: Mapping[str, Any]) -> HmarSettings:
    """Our settings for a run's official arguments, in which 0 switches a filter off."""
    return HmarSettings(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        mask_schedule=run["mask_schedule"] if run["mask"] else NO_REFINEMENT,
        kv_cache=run.get("kv_cache", False),
    )


@dataclass(slots=True, kw_only=True)
class _Refinement:
    """What one refinement decided and read."""

    name: str
    """"s.k": the k-th of scale s."""
    confidence_Bn: Tensor
    """Of the tokens it chose from, in the order of their positions."""
    positions_Bn: Tensor
    history_BKpp: Tensor | None = None
    own_BKpp: Tensor | None = None


class _Watched(HmarSampler):
    """Keeps what the fixtures recorded of refinement; it decides nothing."""

    refinements: list[_Refinement]

    def masked_positions(
        self, drawn: ScaleDraw, among_Bn: Tensor | None, count: int, scale: int, run: ScaleRun
    ) -> Tensor:
        positions_Bn = super().masked_positions(drawn, among_Bn, count, scale, run)
        confidence_Bl = confidence(drawn.filtered_BlV, drawn.tokens_Bl)
        again = sum(known.name.startswith(f"{scale}.") for known in self.refinements)
        self.refinements.append(
            _Refinement(
                name=f"{scale}.{again + 1}",
                confidence_Bn=confidence_Bl if among_Bn is None else confidence_Bl.gather(1, among_Bn),
                positions_Bn=positions_Bn,
            )
        )
        return positions_Bn

    def masked_input(self, tokens_Bl: Tensor, scale: int, run: ScaleRun) -> tuple[Tensor, Tensor]:
        history_BlK, own_BlK = super().masked_input(tokens_Bl, scale, run)
        side = run.canvas.sides[scale]
        self.refinements[-1].history_BKpp = history_BlK.transpose(1, 2).unflatten(2, side)
        self.refinements[-1].own_BKpp = own_BlK.transpose(1, 2).unflatten(2, side)
        return history_BlK, own_BlK


def _run_outputs(samples: Samples, recorder: Recorder, refinements: Sequence[_Refinement]) -> dict[str, Tensor]:
    kinds = [step.kind for step in recorder.steps]
    scales = [output for output, kind in zip(recorder.outputs, kinds, strict=True) if kind == "scale"]
    masks = [output for output, kind in zip(recorder.outputs, kinds, strict=True) if kind == "mask"]
    # A scale is on the canvas after its last step.
    last = [i for i in range(len(kinds)) if i + 1 == len(kinds) or kinds[i + 1] == "scale"]
    states = [recorder.outputs[i].state for i in last]
    return {
        "labels": samples.labels,
        "image": samples.decoded,
        "ids": torch.cat(samples.tokens, dim=1),
        **numbered("ids", samples.tokens),
        "f_hat": states[-1],
        "f_hat.all": torch.stack(states),
        **numbered("f_hat", states),
        **_scale_outputs(scales),
        **_mask_outputs(scales, masks, refinements),
    }


def _scale_outputs(scales: Sequence[StepOutput]) -> dict[str, Tensor]:
    parts = {
        "ns_ids": [output.tokens for output in scales],
        "ns_logits_pre_cfg": [output.logits_pre_cfg for output in scales],
        "ns_logits_cfg": [output.logits for output in scales],
    }
    outputs = {name: torch.cat(tensors, dim=1) for name, tensors in parts.items()}
    for name, tensors in parts.items():
        outputs |= numbered(name, tensors)
    return outputs


def _mask_outputs(
    scales: Sequence[StepOutput], masks: Sequence[StepOutput], refinements: Sequence[_Refinement]
) -> dict[str, Tensor]:
    if not masks:
        return {}
    outputs = {
        "mask_logits_pre_cfg": torch.cat([output.logits_pre_cfg for output in masks], dim=1),
        "mask_logits_cfg": torch.cat([output.logits for output in masks], dim=1),
        "confidence": torch.cat([refinement.confidence_Bn for refinement in refinements], dim=1),
    }
    tokens_Bl = scales[0].tokens
    for output, refinement in zip(masks, refinements, strict=True):
        name, positions_Bn = refinement.name, refinement.positions_Bn
        scale, number = (int(part) for part in name.split("."))
        if number == 1:
            tokens_Bl = scales[scale].tokens
        masked_Bl = torch.zeros_like(tokens_Bl, dtype=torch.bool).scatter(1, positions_Bn, True)
        tokens_Bl = torch.where(masked_Bl, output.tokens, tokens_Bl)
        # The confidences that a refinement chose from are those of the pass before it.
        outputs[f"ns_probs.{scale}" if number == 1 else f"mask_probs.{scale}.{number - 1}"] = refinement.confidence_Bn
        outputs |= {
            f"mask_idx.{name}": positions_Bn,
            f"mask_idx.{name}.set": positions_Bn.sort(dim=1).values,
            f"mask_fhat_in.{name}": cast(Tensor, refinement.history_BKpp),
            f"mask_h_in.{name}": cast(Tensor, refinement.own_BKpp),
            f"mask_logits_pre_cfg.{name}": output.logits_pre_cfg,
            f"mask_logits_cfg.{name}": output.logits,
            f"mask_sampled_ids.{name}": output.tokens,
            f"mask_ids.{name}": tokens_Bl,
        }
    return outputs


@torch.inference_mode()
def _training_passes(sampler: HmarSampler, fixture: Fixture) -> dict[str, Tensor]:
    tokens, labels = split_scales(sampler, fixture.inputs["tf_ids"]), fixture.inputs["labels"]
    return {
        "nsp.input": sampler.tokenizer.quantize.teacher_forcing_input(tokens),
        "nsp.logits": sampler.teacher_forced(tokens, labels),
        "mp.mask_input": sampler.own_input(tokens, sampler.sides(sampler.spec.settings)),
        "mp.logits": sampler.masked_logits(tokens, labels, fixture.inputs["mp.idx_to_mask"]),
    }
