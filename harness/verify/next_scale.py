"""Replay of next-scale fixtures: what VAR, M-VAR, HMAR and FlexVAR have in common.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, S scales
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.loading import assemble, meta_modules
from arvbench.adapters.next_scale.residual import ResidualSampler
from arvbench.adapters.next_scale.sampler import NextScaleSampler
from arvbench.adapters.sampler import ModelSpec, Samples, SilentObserver, StepOutput, WeightsInfo
from arvbench.adapters.sampling import Noise, UpstreamNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import Backend, SamplingSettings
from arvbench.harness.verify.fixture import Fixture, FixtureError

# Arguments that change nothing in the recorded outputs: regularisation (zero in every fixture), the choice of attention
# kernel, remarks, and what follows from other arguments.
_NO_EFFECT = frozenset(
    {"drop_rate", "attn_drop_rate", "drop_path_rate", "dropout", "flash_if_available", "fused_if_available", "note"}
    | {"test_mode", "downsample", "default_qresi_counts"}
)


T = TypeVar("T")


def config_from(kind: type[T], args: Mapping[str, Any], *, no_effect: Iterable[str] = ()) -> T:
    """A configuration from a fixture's official arguments; FixtureError for arguments we do not have."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(args.keys() - known - _NO_EFFECT - set(no_effect)):
        raise FixtureError(f"the fixture uses arguments that are not implemented: {', '.join(unknown)}")
    used: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in args.items() if k in known}
    return kind(**used)


def build(fixture: Fixture, spec: ModelSpec, backend: Backend, device: torch.device) -> Any:
    """The sampler of `spec` with the fixture's weights."""
    info = WeightsInfo(source=f"fixture {fixture.name}", random=False)
    return assemble(spec, _state(fixture, spec), info, device=device, backend=backend)


def _state(fixture: Fixture, spec: ModelSpec) -> dict[str, dict[str, Tensor]]:
    state = {}
    for (part, module), prefix in zip(meta_modules(spec).items(), ("model.", "vae."), strict=True):
        state[part] = {k.removeprefix(prefix): t for k, t in fixture.weights.items() if k.startswith(prefix)}
        constants: dict[str, Tensor] = module.constant_buffers()  # type: ignore[operator]
        state[part] |= {k: t for k, t in constants.items() if prefix + k in fixture.constructed}
    return state


class Recorder(SilentObserver):
    """Keeps every step and what it produced."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.outputs: list[StepOutput] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(step)
        self.outputs.append(output)


def run_labels(fixture: Fixture, run: Mapping[str, Any], noise: Noise, num_classes: int) -> Tensor:
    """Labels of a run: its own, the fixture's, or drawn (before any token) when it was recorded without."""
    if "label_B" in run and run["label_B"] is None:
        return noise.labels(len(fixture.inputs["labels"]), num_classes)
    return torch.tensor(run["labels"]) if "labels" in run else fixture.inputs["labels"]


def generate(
    sampler: NextScaleSampler,
    fixture: Fixture,
    run: Mapping[str, Any],
    settings: SamplingSettings,
    *,
    cache: str | None = None,
) -> tuple[Samples, Recorder]:
    """Replay one run with the official random stream."""
    recorder, noise = Recorder(), UpstreamNoise(run["g_seed"])
    labels = run_labels(fixture, run, noise, sampler.spec.num_classes)
    held: Cache | None = None if cache is None else sampler.make_cache(cache, settings, batch=len(labels))
    return sampler.sample(labels, settings, noise=noise, cache=held, observer=recorder), recorder


def run_outputs(samples: Samples, outputs: Sequence[StepOutput]) -> dict[str, Tensor]:
    """What a run of one step per scale may have recorded."""
    logits = torch.cat([output.logits for output in outputs], dim=1)
    top2 = logits.topk(2, dim=-1).values
    states = [output.state for output in outputs]
    # FlexVAR's states grow with the scales.
    f_hats = {"f_hat.all": torch.stack(states)} if len({state.shape for state in states}) == 1 else {}
    return {
        "labels": samples.labels,
        "ids": torch.cat(samples.tokens, dim=1),
        "logits_pre_cfg": torch.cat([output.logits_pre_cfg for output in outputs], dim=1),
        "logits_cfg": logits,
        "logits_cfg.last": outputs[-1].logits,
        "top1_logit": top2[..., 0],
        "top2_gap": top2[..., 0] - top2[..., 1],
        "f_hat": states[-1],
        **f_hats,
        "image": samples.decoded,
        **numbered("ids", samples.tokens),
        **numbered("logits_pre_cfg", [output.logits_pre_cfg for output in outputs]),
        **numbered("logits_cfg", [output.logits for output in outputs]),
        **numbered("f_hat", states),
    }


def numbered(name: str, per_scale: Iterable[Tensor]) -> dict[str, Tensor]:
    """{"name.0": ..., "name.1": ...}"""
    return {f"{name}.{scale}": tensor for scale, tensor in enumerate(per_scale)}


def split_scales(sampler: NextScaleSampler, ids_BL: Tensor) -> tuple[Tensor, ...]:
    """Ids of all scales to ids per scale."""
    sides = sampler.sides(sampler.spec.settings)
    return ids_BL.to(sampler.device).split([h * w for h, w in sides], dim=1)


@contextmanager
def hidden_states(blocks: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the output of every block while the context is open."""
    hidden: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _module, _args, output: hidden.append(output)) for block in blocks]
    try:
        yield hidden
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def residual_tokenizer(sampler: ResidualSampler, fixture: Fixture) -> dict[str, Tensor]:
    """Outputs of the multi-scale residual VQ-VAE."""
    tokenizer = sampler.tokenizer
    features = tokenizer.features(fixture.inputs["image"].to(sampler.device))
    ids, f_hat = tokenizer.quantize.encode(features)
    known = split_scales(sampler, fixture.inputs["tf_ids"])
    return {
        "f": features,
        "enc_ids": torch.cat(ids, dim=1),
        **numbered("enc_ids", ids),
        "enc_fhat": f_hat,
        "rec": tokenizer.decode(ids),
        "tf_fhat": tokenizer.quantize.f_hats(known)[-1],
        "dec_tf": tokenizer.decode(known),
    }


def prefixed(prefix: str, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of one run under the fixture's names."""
    return {f"{prefix}.{name}": tensor for name, tensor in outputs.items()}
