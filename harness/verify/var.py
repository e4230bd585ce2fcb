"""Replay of a VAR fixture: every recorded run through our sampler, under the fixture's names.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, S scales
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from arvbench.adapters.base import NULL_LABEL, Backend, ModelSpec, SilentObserver, StepOutput, WeightsInfo
from arvbench.adapters.loading import assemble, meta_modules
from arvbench.adapters.sampling import UpstreamNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.tokenizers.multiscale_vq import VqVaeConfig
from arvbench.adapters.var import VarConfig, VarSampler, VarSettings, var_spec
from arvbench.harness.verify.fixture import Fixture, FixtureError

# Arguments that change nothing in the recorded outputs: regularisation (zero in every fixture), the choice of attention
# kernel, remarks, and what follows from other arguments.
_NO_EFFECT = frozenset(
    {"drop_rate", "attn_drop_rate", "drop_path_rate", "dropout", "flash_if_available", "fused_if_available", "note"}
    | {"test_mode", "downsample", "default_qresi_counts"}
)


def replay(fixture: Fixture, backend: str, device: torch.device) -> dict[str, Tensor]:
    """Everything that the fixture may have recorded, by name."""
    sampler = _build(fixture, cast(Backend, backend), device)
    produced: dict[str, Tensor] = {}
    for name, run in fixture.runs.items():
        produced |= {f"{name}.{output}": t for output, t in _run(sampler, fixture, run).items()}
    produced |= {f"tf.{output}": t for output, t in _teacher_forced(sampler, fixture).items()}
    produced |= {f"vae.{output}": t for output, t in _tokenizer(sampler, fixture).items()}
    return produced


# ---- the model ---------------------------------------------------------------------------------------------------


def fixture_spec(fixture: Fixture) -> ModelSpec:
    """The spec of the model that the fixture was recorded on. Raises FixtureError for arguments we do not have."""
    tokenizer = _config(VqVaeConfig, fixture.tokenizer_args)
    sizes = {"vocab_size": tokenizer.vocab_size, "code_dim": tokenizer.z_channels}
    transformer = _config(VarConfig, {**fixture.model_args, **sizes})
    return var_spec(fixture.name, transformer, tokenizer, VarSettings(cfg=0), "fixture")


def _build(fixture: Fixture, backend: Backend, device: torch.device) -> VarSampler:
    spec = fixture_spec(fixture)
    info = WeightsInfo(source=f"fixture {fixture.name}", random=False)
    sampler = assemble(spec, _state(fixture, spec), info, device=device, backend=backend)
    return cast(VarSampler, sampler)


T = TypeVar("T", VarConfig, VqVaeConfig)


def _config(kind: type[T], args: Mapping[str, Any]) -> T:
    known = {f.name for f in fields(kind)}
    if unknown := sorted(args.keys() - known - _NO_EFFECT):
        raise FixtureError(f"the fixture uses arguments that are not implemented: {', '.join(unknown)}")
    used: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in args.items() if k in known}
    return kind(**used)


def _state(fixture: Fixture, spec: ModelSpec) -> dict[str, dict[str, Tensor]]:
    state = {}
    for (part, module), prefix in zip(meta_modules(spec).items(), ("model.", "vae."), strict=True):
        state[part] = {k.removeprefix(prefix): t for k, t in fixture.weights.items() if k.startswith(prefix)}
        constants: dict[str, Tensor] = module.constant_buffers()  # type: ignore[operator]
        state[part] |= {k: t for k, t in constants.items() if prefix + k in fixture.constructed}
    return state


# ---- generation --------------------------------------------------------------------------------------------------


class _Recorder(SilentObserver):
    """Keeps what every step produced."""

    def __init__(self) -> None:
        self.steps: list[StepOutput] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(output)


def _run(sampler: VarSampler, fixture: Fixture, run: Mapping[str, Any]) -> dict[str, Tensor]:
    settings = VarSettings(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        more_smooth=run.get("more_smooth", False),
    )
    noise = UpstreamNoise(run["g_seed"])
    # A run without labels draws them itself, before any token.
    unlabelled = "label_B" in run and run["label_B"] is None
    batch = len(fixture.inputs["labels"])
    labels = noise.labels(batch, sampler.spec.num_classes) if unlabelled else fixture.inputs["labels"]
    recorder = _Recorder()
    samples = sampler.sample(labels, settings, noise=noise, observer=recorder)
    steps = recorder.steps
    logits = torch.cat([step.logits for step in steps], dim=1)
    top2 = logits.topk(2, dim=-1).values
    return {
        "labels": samples.labels,
        "ids": torch.cat(samples.tokens, dim=1),
        "logits_pre_cfg": torch.cat([step.logits_pre_cfg for step in steps], dim=1),
        "logits_cfg": logits,
        "logits_cfg.last": steps[-1].logits,
        "top1_logit": top2[..., 0],
        "top2_gap": top2[..., 0] - top2[..., 1],
        "f_hat": steps[-1].state,
        "f_hat.all": torch.stack([step.state for step in steps]),
        "image": samples.decoded,
        **_numbered("ids", samples.tokens),
        **_numbered("logits_pre_cfg", [step.logits_pre_cfg for step in steps]),
        **_numbered("logits_cfg", [step.logits for step in steps]),
        **_numbered("f_hat", [step.state for step in steps]),
    }


def _numbered(name: str, per_scale: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{scale}": tensor for scale, tensor in enumerate(per_scale)}


# ---- teacher forcing and tokenizer -------------------------------------------------------------------------------


def _split(sampler: VarSampler, ids_BL: Tensor) -> tuple[Tensor, ...]:
    return ids_BL.to(sampler.device).split([pn * pn for pn in sampler.spec.transformer.patch_nums], dim=1)


@torch.inference_mode()
def _teacher_forced(sampler: VarSampler, fixture: Fixture) -> dict[str, Tensor]:
    tokens, labels = _split(sampler, fixture.inputs["tf_ids"]), fixture.inputs["labels"]
    hidden: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _module, _args, output: hidden.append(output))
        for block in sampler.transformer.blocks
    ]
    try:
        logits = sampler.teacher_forced(tokens, labels)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        "input": sampler.tokenizer.quantize.teacher_forcing_input(tokens),
        "logits": logits,
        "hidden": torch.stack(hidden),
        "logits_uncond": sampler.teacher_forced(tokens, [NULL_LABEL] * len(labels)),
    }


@torch.inference_mode()
def _tokenizer(sampler: VarSampler, fixture: Fixture) -> dict[str, Tensor]:
    tokenizer = sampler.tokenizer
    features = tokenizer.features(fixture.inputs["image"].to(sampler.device))
    ids, f_hat = tokenizer.quantize.encode(features)
    known = _split(sampler, fixture.inputs["tf_ids"])
    return {
        "f": features,
        "enc_ids": torch.cat(ids, dim=1),
        **_numbered("enc_ids", ids),
        "enc_fhat": f_hat,
        "rec": tokenizer.decode(ids),
        "tf_fhat": tokenizer.quantize.f_hats(known)[-1],
        "dec_tf": tokenizer.decode(known),
    }
