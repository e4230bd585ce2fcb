"""Replay of an M-VAR fixture: VAR's outputs, and what the Mamba-2 mixers read, return and remember.

The reference backend replays the official way (cache policy `history`), the optimized one carries states (`state`).

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, C width, K code channels, pn side of a scale
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.mvar.sampler import MvarBlock, MvarConfig, MvarSampler, MvarSettings, mvar_spec
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.settings import Backend
from arvbench.adapters.tokenizers.multiscale_vq import VqVaeConfig
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.next_scale import (
    build,
    config_from,
    generate,
    numbered,
    prefixed,
    residual_tokenizer,
    run_outputs,
)
from arvbench.harness.verify.var import settings_of, teacher_forced

Call = tuple[Tensor, Any]
"""First argument and output of one call of a module."""


def replay(fixture: Fixture, backend: str, device: torch.device) -> dict[str, Tensor]:
    """Everything that the fixture may have recorded, by name."""
    sampler: MvarSampler = build(fixture, fixture_spec(fixture), cast(Backend, backend), device)
    produced: dict[str, Tensor] = {}
    for name, run in fixture.runs.items():
        outputs, mixers = _run(sampler, fixture, run)
        produced |= prefixed(name, outputs)
        # Fixtures with all weights keep the mixers of the greedy run only, and leave its name out.
        produced |= mixers if name == "greedy" else {}
    forced = teacher_forced(sampler, fixture)
    produced |= prefixed("tf", {**forced, **numbered("hidden", forced["hidden"])})
    produced |= prefixed("vae", residual_tokenizer(sampler, fixture))
    return produced


def fixture_spec(fixture: Fixture) -> ModelSpec:
    """The spec of the model that the fixture was recorded on. Raises FixtureError for arguments we do not have."""
    tokenizer = config_from(VqVaeConfig, fixture.tokenizer_args)
    sizes = {"vocab_size": tokenizer.vocab_size, "code_dim": tokenizer.z_channels}
    transformer = config_from(MvarConfig, {**fixture.model_args, **sizes})
    return mvar_spec(fixture.name, transformer, tokenizer, MvarSettings(cfg=0), "fixture")


def _run(sampler: MvarSampler, fixture: Fixture, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of one run, and the same mixers under the names of the fixtures with all weights."""
    blocks = [cast(MvarBlock, block) for block in sampler.transformer.blocks]
    with ExitStack() as stack:
        (embedded,) = stack.enter_context(recorded([sampler.transformer.word_embed]))
        mixed = stack.enter_context(recorded(block.mamba for block in blocks))
        whole = stack.enter_context(recorded(blocks))
        samples, recorder = generate(sampler, fixture, run, settings_of(run))
    steps = recorder.steps
    outputs = run_outputs(samples, recorder.outputs)
    for step, (codes_BlK, _) in zip(steps[1:], embedded, strict=True):
        outputs[f"next_map.{step.index - 1}"] = codes_BlK.transpose(1, 2).unflatten(2, step.side)
    mixers: dict[str, Tensor] = {}
    for i, calls in enumerate(mixed):
        # The official way repeats earlier tokens in every call; the new ones are the last.
        news = [step.new_tokens for step in steps]
        states = [state for _, (_, state) in calls]
        of_block = {
            "in": torch.cat([x[:, -new:] for new, (x, _) in zip(news, calls, strict=True)], dim=1),
            "out": torch.cat([out[:, -new:] for new, (_, (out, _)) in zip(news, calls, strict=True)], dim=1),
            "conv_state": states[-1].conv_RMK,
            "ssm_state": states[-1].ssm_RHPN,
        }
        outputs |= {f"mamba{i}_{name}": tensor for name, tensor in of_block.items()}
        of_block["block_out"] = torch.cat([out for _, out in whole[i]], dim=1)
        of_block |= numbered("conv_state", [state.conv_RMK for state in states])
        of_block |= numbered("ssm_state", [state.ssm_RHPN for state in states])
        mixers |= prefixed(f"mamba.{i}", of_block)
    return outputs, mixers


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[list[list[Call]]]:
    """Collect the calls of every module while the context is open."""
    calls: list[list[Call]] = []
    with ExitStack() as stack:
        for module in modules:
            own: list[Call] = []
            calls.append(own)
            hook = module.register_forward_hook(lambda _module, args, output, own=own: own.append((args[0], output)))
            stack.callback(hook.remove)
        yield calls
