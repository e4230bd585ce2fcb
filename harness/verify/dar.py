"""Parts of D-AR's fixtures that no other family has: settings, and decodes from given or drawn noise.

Shapes   B images, S side of an image
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arvbench.adapters.dar.sampler import DarSettings
from arvbench.adapters.dar.tokenizer import DarTokenizer
from arvbench.adapters.sampling import UpstreamNoise
from arvbench.adapters.token_grid.sequence import SequenceSampler
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.generated_weights import normal_v1, recipe_v1
from arvbench.harness.verify.replay import Outputs, Run, recorded
from arvbench.harness.verify.token_grid import FIXED as FIXED_ON_GRIDS
from arvbench.harness.verify.token_grid import RecordingNoise
from arvbench.harness.verify.token_sequence import SequenceReplay

FIXED: Mapping[str, Any] = {
    **FIXED_ON_GRIDS,
    "vq_enable": True,
    "in_dim": 3,
    "out_dim": 3,
    "mlp_head": False,
    "share_time_encoding": False,
}
"""Official arguments without a counterpart here, with the value of every released model."""
_OF_DECODER = {"dim": "diff_dim", "patch_size": "diff_patch_size", "depth": "diff_depth"}
"""Arguments of the pixel decoder with other names here, where all arguments lie side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DarReplay(SequenceReplay):
    """Replay of D-AR's fixtures."""

    def _config(self, kind: type[Any], args: Mapping[str, Any]) -> Any:
        inner: dict[str, Any] = dict(args.get("diff_decoder", {}))
        # The conditions are as wide as the layers that make them.
        inner.pop("cond_dim", None)
        outer = {name: value for name, value in args.items() if name != "diff_decoder"}
        named: dict[str, Any] = {_OF_DECODER.get(name, name): value for name, value in inner.items()}
        return super(DarReplay, self)._config(kind, outer | named)


def run_settings(run: Run) -> DarSettings:
    """Return our settings for a run's official arguments; "a,b" is a line from a to b."""
    first, _, last = str(run["cfg_scale"]).partition(",")
    return DarSettings(
        cfg=float(first),
        cfg_end=float(last) if last else None,
        cfg_interval=None if run["cfg_interval"] < 0 else run["cfg_interval"],
        temperature=run["temperature"],
        top_k=(run["top_k"] or None) if run["sample_logits"] else 1,
        top_p=run["top_p"],
    )


class _Given(RecordingNoise):
    """Noise whose normal variates are those of a fixture."""

    def __init__(self, values_B3SS: Tensor) -> None:
        super().__init__(0)
        self.normal = lambda like_BX, step: values_B3SS.to(like_BX.device)


def _noise(fixture: Fixture) -> Tensor:
    name, shape = fixture.description["inputs"]["decode_noise"]["normal_v1"]
    return torch.from_numpy(normal_v1(fixture.description["seed_string"], name, shape))


def run_image(sampler: SequenceSampler, fixture: Fixture, tokens_BN: Tensor) -> Tensor:
    """Decode the tokens of a run from the fixture's noise."""
    with torch.inference_mode():
        return sampler.tokenizer.decode(tokens_BN, _Given(_noise(fixture)))


@torch.inference_mode()
def tokenizer_outputs(sampler: SequenceSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of the tokenizer, and those of its recorded decodes."""
    tokenizer, device = sampler.tokenizer, sampler.device
    assert isinstance(tokenizer, DarTokenizer)
    features_BD1N = tokenizer.features(fixture.inputs["image"].to(device))
    known = fixture.inputs["tf_ids"].to(device)
    codes = tokenizer.quantize.lookup(known, (1, known.shape[1]))
    conditions = tokenizer.conditions(codes)
    outputs = {
        "vq.pre_quant": features_BD1N,
        "vq.ids": tokenizer.quantize.nearest(features_BD1N),
        "vq.cond": conditions,
        **_velocity(tokenizer, fixture, conditions),
    }
    given = _noise(fixture).to(device)
    for name, run in fixture.description["decode_runs"].items():
        start = given if run["noise"] == "recipe" else UpstreamNoise(run["torch_seed"]).normal(given, 0)
        states: list[Tensor] = []
        hook = tokenizer.net.register_forward_hook(lambda _, args, out, kept=states: kept.extend((args[0], out)))
        outputs[f"{name}.image"] = tokenizer.denoised(codes, start, steps=run["clip_steps"])
        hook.remove()
        outputs[f"{name}.x"], outputs[f"{name}.v"] = torch.stack(states[::2]), torch.stack(states[1::2])
        outputs[f"{name}.t"] = torch.tensor(tokenizer.config.times(run["clip_steps"])[:-1])
    return outputs


def _velocity(tokenizer: DarTokenizer, fixture: Fixture, conditions_BNC: Tensor) -> Outputs:
    """Return one evaluation of the velocity net, which sees the second group of four conditions."""
    time = torch.from_numpy(
        recipe_v1(fixture.description["seed_string"], *fixture.description["inputs"]["velocity"]["t"])
    )
    x_B3SS = _noise(fixture).to(conditions_BNC.device)
    with recorded(tokenizer.net, r"blocks\.\d+") as calls:
        out = tokenizer.net(x_B3SS, time.to(x_B3SS.device), conditions_BNC[:, 4:8])
    return {"velocity.out": out, "velocity.hidden": torch.stack([hidden for ((_, hidden),) in calls.values()])}
