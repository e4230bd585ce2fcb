"""Replay of FlexVAR fixtures, in which every run has its own scales.

Official images are the raw output of the decoder, nominally in [-1, 1]; ours are mapped to [0, 1] and mapped back here.

Shapes   B images, l tokens of one scale, L of all scales, K code channels
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from arvbench.adapters.flexvar.sampler import FlexVarSampler, FlexVarSettings
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.next_scale import ReplayedRun, scale_outputs, split_scales
from arvbench.harness.verify.replay import Outputs, Run, numbered, prefixed

TRAINING_ONLY = frozenset(
    {"token_dropout_p", "dropout_p", "commit_loss_beta", "entropy_loss_ratio", "codebook_show_usage"}
)


def spec_settings(fixture: Fixture) -> FlexVarSettings:
    """Return settings with the scales of the fixture's teacher forcing."""
    description = fixture.description
    scales = description["tf_patch_nums"] if "tf_patch_nums" in description else description["inputs"]["tf_patch_nums"]
    return FlexVarSettings(cfg=0, scales=tuple(scales))


def run_settings(run: Run) -> FlexVarSettings:
    """Return our settings for official arguments, in which 0 switches a filter off and max_pn is 16 by default."""
    return FlexVarSettings(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        scales=tuple(run["infer_patch_nums"]),
        max_pn=run.get("max_pn", 16),
        invalid_ids=tuple(run.get("invalid_ids") or ()),
        cfg_style="constant" if run.get("used_llamagen_cfg") else "ramp",
    )


def resized_scale_outputs(run: ReplayedRun) -> Outputs:
    """Return the outputs of a run, with the input codes of every later scale and its effective top_k."""
    sampler, settings = cast(FlexVarSampler, run.sampler), cast(FlexVarSettings, run.settings)
    inputs_BlK = [codes_BlK for codes_BlK, _ in run.calls["word_embed"]]
    return {
        **scale_outputs(run),
        "image": _raw(run.samples.decoded),
        "effective_top_k": torch.tensor([sampler.top_k(step.map_side, settings) or 0 for step in run.steps]),
        "next_quant": torch.cat(inputs_BlK, dim=1),
        **numbered("next_quant", inputs_BlK),
    }


@torch.inference_mode()
def vq_tokenizer(sampler: FlexVarSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of the tokenizer at the scales of teacher forcing."""
    images, sides = fixture.inputs["image"].to(sampler.device), sampler.sides(sampler.spec.settings)
    ids, known = sampler.encode(images), split_scales(sampler, fixture.inputs["tf_ids"])
    tokenizer = sampler.tokenizer
    outputs = {
        "enc_conti": tokenizer.features(images),
        "enc_ids": torch.cat(ids, dim=1),
        "enc_tf_input": sampler.forced_input(ids, sides),
        "ms_quant_last": tokenizer.quantize.lookup(ids[-1], sides[-1]),
        "rec_last": _raw(sampler.decode(ids)),
        "dec_tf_last": _raw(sampler.decode(known)),
        "dec_tf_mid": tokenizer.decode(known[-2], side=sides[-2]),
    }
    return prefixed("vae", outputs)


def _raw(decoded: Tensor) -> Tensor:
    """Return (B, 3, H, W) in the decoder's own range, [-1, 1]."""
    return decoded * 2 - 1
