"""Replay of HMAR fixtures: both predictions, and every decision of mask refinement.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, n masked positions, K code channels
Names    `ns` next-scale prediction; `.s.k` the k-th refinement of scale s; `nsp`, `mp` the two training passes
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from arvbench.adapters.call import StepOutput
from arvbench.adapters.hmar.refinement import NO_REFINEMENT, confidence
from arvbench.adapters.hmar.sampler import HmarSampler, HmarSettings
from arvbench.adapters.next_scale.sampler import ScaleRun
from arvbench.adapters.sampling import filter_logits
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.next_scale import ReplayedRun, split_scales
from arvbench.harness.verify.replay import Outputs, Run, numbered


class WatchedHmarSampler(HmarSampler):
    """HMAR sampler that records the inputs of its refinements, which observers do not receive."""

    @cached_property
    def masked_inputs(self) -> list[tuple[Tensor, Tensor]]:
        """Codes of the coarser scales and of the refined scale itself, both (B, l, K), per refinement."""
        return []

    def masked_input(self, tokens_Bl: Tensor, scale: int, run: ScaleRun) -> tuple[Tensor, Tensor]:
        self.masked_inputs.append(super().masked_input(tokens_Bl, scale, run))
        return self.masked_inputs[-1]


def run_settings(run: Run) -> HmarSettings:
    """Return our settings for a run's official arguments, in which 0 switches a filter off."""
    return HmarSettings(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        mask_schedule=run["mask_schedule"] if run["mask"] else NO_REFINEMENT,
        kv_cache=run.get("kv_cache", False),
    )


def both_predictions(run: ReplayedRun) -> Outputs:
    """Return the outputs of a run with any number of refinements per scale."""
    kinds = [step.kind for step in run.steps]
    # A scale joins the canvas after its last step.
    last = [i for i in range(len(kinds)) if i + 1 == len(kinds) or kinds[i + 1] == "scale"]
    states = [run.step_outputs[i].state for i in last]
    predicted = [output for output, kind in zip(run.step_outputs, kinds, strict=True) if kind == "scale"]
    return {
        "labels": run.samples.labels,
        "image": run.samples.decoded,
        "ids": torch.cat(run.samples.tokens, dim=1),
        **numbered("ids", run.samples.tokens),
        "f_hat": states[-1],
        "f_hat.all": torch.stack(states),
        **numbered("f_hat", states),
        **_whole_and_numbered("ns_ids", [output.tokens for output in predicted]),
        **_whole_and_numbered("ns_logits_pre_cfg", [output.logits_pre_cfg for output in predicted]),
        **_whole_and_numbered("ns_logits_cfg", [output.logits for output in predicted]),
        **_refinements(run),
    }


def _whole_and_numbered(name: str, tensors: Sequence[Tensor]) -> Outputs:
    return {name: torch.cat(tuple(tensors), dim=1), **numbered(name, tensors)}


def _refinements(run: ReplayedRun) -> Outputs:
    sampler = cast(WatchedHmarSampler, run.sampler)
    inputs = list(sampler.masked_inputs)
    sampler.masked_inputs.clear()
    outputs: Outputs = {}
    confidences: list[Tensor] = []
    scale, number, tokens_Bl = -1, 0, run.samples.tokens[0]
    for index, (step, output) in enumerate(zip(run.steps, run.step_outputs, strict=True)):
        if step.kind == "scale":
            scale, number, tokens_Bl = scale + 1, 0, output.tokens
            continue
        number += 1
        name, positions_Bn = f"{scale}.{number}", cast(Tensor, output.redrawn)
        masked_Bl = torch.zeros_like(tokens_Bl, dtype=torch.bool).scatter(1, positions_Bn, True)
        tokens_Bl = torch.where(masked_Bl, output.tokens, tokens_Bl)
        history_BKpp, own_BKpp = (
            codes_BlK.transpose(1, 2).unflatten(2, step.map_side) for codes_BlK in inputs[len(confidences)]
        )
        # A refinement selects positions by the confidences of the previous pass.
        confidences.append(_confidence(run.step_outputs[index - 1], run.settings.top_k, run.settings.top_p))
        outputs[f"ns_probs.{scale}" if number == 1 else f"mask_probs.{scale}.{number - 1}"] = confidences[-1]
        outputs |= {
            f"mask_idx.{name}": positions_Bn,
            f"mask_idx.{name}.set": positions_Bn.sort(dim=1).values,
            f"mask_fhat_in.{name}": history_BKpp,
            f"mask_h_in.{name}": own_BKpp,
            f"mask_logits_pre_cfg.{name}": output.logits_pre_cfg,
            f"mask_logits_cfg.{name}": output.logits,
            f"mask_sampled_ids.{name}": output.tokens,
            f"mask_ids.{name}": tokens_Bl,
        }
    masks = [output for output in run.step_outputs if output.redrawn is not None]
    if masks:
        outputs["mask_logits_pre_cfg"] = torch.cat([output.logits_pre_cfg for output in masks], dim=1)
        outputs["mask_logits_cfg"] = torch.cat([output.logits for output in masks], dim=1)
        outputs["confidence"] = torch.cat(confidences, dim=1)
    return outputs


def _confidence(output: StepOutput, top_k: int | None, top_p: float | None) -> Tensor:
    """Confidences (B, n) of the tokens that `output` drew, in the order of their positions."""
    confidence_Bl = confidence(filter_logits(output.logits, top_k, top_p), output.tokens)
    return confidence_Bl if output.redrawn is None else confidence_Bl.gather(1, output.redrawn)


@torch.inference_mode()
def training_passes(sampler: HmarSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of both training passes, none for a fixture that did not record them."""
    if "mp.idx_to_mask" not in fixture.inputs:
        return {}
    tokens, labels = split_scales(sampler, fixture.inputs["tf_ids"]), fixture.inputs["labels"]
    sides = sampler.sides(sampler.spec.settings)
    return {
        "nsp.input": sampler.forced_input(tokens, sides),
        "nsp.logits": sampler.teacher_forced(tokens, labels),
        "mp.mask_input": sampler.own_input(tokens, sides),
        "mp.logits": sampler.masked_logits(tokens, labels, fixture.inputs["mp.idx_to_mask"]),
    }
