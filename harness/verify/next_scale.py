"""Replay of next-scale fixtures: VAR, M-VAR, HMAR and FlexVAR.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.call import Samples, StepOutput
from arvbench.adapters.next_scale.sampler import NextScaleSampler
from arvbench.adapters.sampler import NULL_LABEL
from arvbench.adapters.sampling import UpstreamNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.tokenizers.multiscale_vq import VqVae, VqVaeConfig
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.replay import (
    Call,
    FamilyReplay,
    Outputs,
    Recorder,
    Run,
    Tolerances,
    numbered,
    prefixed,
    recorded,
)

NO_EFFECT = frozenset(
    {"drop_rate", "attn_drop_rate", "drop_path_rate", "dropout", "flash_if_available", "fused_if_available", "note"}
    | {"test_mode", "downsample", "default_qresi_counts"}
)
"""Official arguments that change no recorded output: regularisation (zero in every fixture), the choice of attention
kernel, remarks, and values derived from other arguments.
"""
TOLERANCES: Tolerances = (("smooth.f_hat", 2e-2), ("logits_cfg", 3e-4), ("", 1e-4))
"""Published with the fixtures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedRun:
    """One recorded run, sampled again."""

    sampler: NextScaleSampler
    settings: SamplingSettings
    samples: Samples
    steps: Sequence[Step]
    step_outputs: Sequence[StepOutput]
    calls: Mapping[str, list[Call]]
    """Calls of the transformer's modules that `NextScaleReplay.watched` names."""


def scale_outputs(run: ReplayedRun) -> Outputs:
    """Return the outputs of a run of one step per scale."""
    steps, tokens = run.step_outputs, run.samples.tokens
    logits = torch.cat([step.logits for step in steps], dim=1)
    top2 = logits.topk(2, dim=-1).values
    states = [step.state for step in steps]
    # FlexVAR's states grow with the scales.
    all_states = {"f_hat.all": torch.stack(states)} if len({state.shape for state in states}) == 1 else {}
    return {
        "labels": run.samples.labels,
        "ids": torch.cat(tokens, dim=1),
        "logits_pre_cfg": torch.cat([step.logits_pre_cfg for step in steps], dim=1),
        "logits_cfg": logits,
        "logits_cfg.last": steps[-1].logits,
        "top1_logit": top2[..., 0],
        "top2_gap": top2[..., 0] - top2[..., 1],
        "f_hat": states[-1],
        **all_states,
        "image": run.samples.decoded,
        **numbered("ids", tokens),
        **numbered("logits_pre_cfg", [step.logits_pre_cfg for step in steps]),
        **numbered("logits_cfg", [step.logits for step in steps]),
        **numbered("f_hat", states),
    }


@torch.inference_mode()
def training_pass(sampler: NextScaleSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of teacher forcing."""
    tokens, labels = split_scales(sampler, fixture.inputs["tf_ids"]), fixture.inputs["labels"]
    with recorded(sampler.transformer, r"blocks\.\d+") as calls:
        logits = sampler.teacher_forced(tokens, labels)
    hidden = [output for ((_, output),) in calls.values()]
    outputs = {
        "input": sampler.forced_input(tokens, sampler.sides(sampler.spec.settings)),
        "logits": logits,
        "hidden": torch.stack(hidden),
        **numbered("hidden", hidden),
        "logits_uncond": sampler.teacher_forced(tokens, [NULL_LABEL] * len(labels)),
    }
    return prefixed("tf", outputs)


@torch.inference_mode()
def residual_tokenizer(sampler: NextScaleSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of the multi-scale residual VQ-VAE."""
    tokenizer, official = cast(VqVae, sampler.tokenizer), sampler.spec.settings
    features = tokenizer.features(fixture.inputs["image"].to(sampler.device))
    ids, f_hat = tokenizer.quantize.encode(features)
    known = split_scales(sampler, fixture.inputs["tf_ids"])
    outputs = {
        "f": features,
        "enc_ids": torch.cat(ids, dim=1),
        **numbered("enc_ids", ids),
        "enc_fhat": f_hat,
        "rec": tokenizer.decode_map(sampler.state_of(ids, official)),
        "tf_fhat": sampler.state_of(known, official),
        "dec_tf": tokenizer.decode_map(sampler.state_of(known, official)),
    }
    return prefixed("vae", outputs)


def split_scales(sampler: NextScaleSampler, ids_BL: Tensor) -> tuple[Tensor, ...]:
    """Split the ids of all scales into ids (B, l) per scale."""
    lengths = [h * w for h, w in sampler.sides(sampler.spec.settings)]
    return torch.split(ids_BL.to(sampler.device), lengths, dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextScaleReplay(FamilyReplay):
    """Replay of one next-scale family; the defaults are VAR's."""

    tolerances: Tolerances = TOLERANCES
    tokenizer: type[Any] = VqVaeConfig
    no_effect: frozenset[str] = NO_EFFECT
    watched: str = ""
    """Regular expression of the transformer's modules whose calls `collect` reads."""
    collect: Callable[[ReplayedRun], Outputs] = scale_outputs
    passes: tuple[Callable[[Any, Fixture], Outputs], ...] = (training_pass, residual_tokenizer)

    def sizes(self, tokenizer: Any) -> dict[str, int]:
        return {"vocab_size": tokenizer.vocab_size, "code_dim": tokenizer.code_dim}

    def run_outputs(self, sampler: NextScaleSampler, fixture: Fixture, run: Run) -> Outputs:
        recorder, noise, settings = Recorder(), UpstreamNoise(run["g_seed"]), self.run_settings(run)
        labels = torch.tensor(run["labels"]) if "labels" in run else fixture.inputs["labels"]
        if "label_B" in run and run["label_B"] is None:
            # Recorded without labels: they are drawn before any token.
            labels = noise.labels(len(fixture.inputs["labels"]), sampler.spec.num_classes)
        cache, kept = self.compressed(sampler, settings, run, len(labels))
        with recorded(sampler.transformer, self.watched) as calls:
            samples = sampler.sample(labels, settings, noise=noise, observer=recorder, cache=cache)
        replayed = ReplayedRun(
            sampler=sampler,
            settings=settings,
            samples=samples,
            steps=recorder.steps,
            step_outputs=recorder.outputs,
            calls=calls,
        )
        return self.collect(replayed) | kept

    def compressed(
        self, sampler: NextScaleSampler, settings: SamplingSettings, run: Run, batch: int
    ) -> tuple[Cache | None, Outputs]:
        """Return the cache of a run (None: the backend's own), and outputs that the run adds to while it goes on."""
        return None, {}

    def pass_outputs(self, sampler: NextScaleSampler, fixture: Fixture) -> Outputs:
        outputs: Outputs = {}
        for produce in self.passes:
            outputs |= produce(sampler, fixture)
        return outputs
