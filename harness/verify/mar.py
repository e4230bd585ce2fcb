"""Replay of MAR fixtures.

Shapes   B images, R forward rows, n tokens of a pass, N of the map, K latent channels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arvbench.adapters.latents.diffusion import LAST_NUMBER, TRAINING_STEPS, Process, process_of
from arvbench.adapters.latents.masked import MaskedSettings, passes_of
from arvbench.adapters.latents.mlp_head import TokenDraws
from arvbench.adapters.latents.sampler import TrainingDraw
from arvbench.harness.verify.fixture import Fixture, FixtureError
from arvbench.harness.verify.latents import DrawName, KeptNoise, LatentReplay, NamedDraw, Sampled, input_of
from arvbench.harness.verify.replay import Call, Outputs, Run

HEAD = r"diffloss\.net\.(input_proj|final_layer|cond_embed)"
NO_EFFECT = frozenset({"num_sampling_steps", "mlp_ratio", "resolution", "downsample"})
"""Official arguments that the sampling settings hold here, or that change no recorded output."""


def diffusion_steps(text: str) -> dict[str, Any]:
    """Return our settings for official counts of steps: "S", or "S,0" for those of the first half alone."""
    first, *others = (int(count) for count in text.split(","))
    if any(others):
        raise FixtureError(f"the fixture's diffusion has steps {text!r}: those of its first section alone are replayed")
    return {"num_steps": first, "last_number": TRAINING_STEPS // (1 + len(others)) - 1 if others else LAST_NUMBER}


def run_settings(run: Run) -> MaskedSettings:
    """Return our settings for official arguments."""
    return MaskedSettings(
        cfg=run["cfg"],
        num_iter=run["num_iter"],
        cfg_schedule=run["cfg_schedule"],
        temperature=run["temperature"],
        **diffusion_steps(run["num_sampling_steps"]),
    )


def spec_settings(fixture: Fixture) -> MaskedSettings:
    """Return settings of the recorded model."""
    return MaskedSettings(cfg=1, num_iter=1, **diffusion_steps(fixture.model_args["num_sampling_steps"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MarReplay(LatentReplay):
    """Passes, and the state and output of every evaluation of the head."""

    def settings_of(self, fixture: Fixture, run: Run) -> Any:
        return self.run_settings({**run, "num_sampling_steps": fixture.model_args["num_sampling_steps"]})

    def draw_name(self, sampler: Any, settings: Any) -> DrawName:
        return lambda number, images: token_draw(number, images, settings)

    def inner_outputs(self, done: Sampled) -> Outputs:
        settings = done.settings
        process = process_of(settings.num_steps, settings.last_number)
        heads = head_calls(done.calls, "diffloss.net", settings.num_steps)
        passes = passes_of(done.samples.tokens[0].shape[1], settings.num_iter)
        strengths = [part.strength(settings, settings.cfg) if settings.cfg > 1 else None for part in passes]
        sampled = [
            both_halves(call, strengths[index], process, settings.temperature, draws_of(done.noise, index, settings))
            for index, call in enumerate(heads)
        ]
        return {
            "orders": torch.cat(done.noise.drawn_orders, dim=1),
            "tokens_per_pass": torch.tensor([step.new_tokens for step in done.steps]),
            "timesteps": torch.tensor(process.numbers).flip(0),
            "cfg": torch.tensor([1.0 if strength is None else strength for strength in strengths]),
            "condition": torch.cat([condition.flatten(0, 1) for condition, _, _ in heads]),
            "sampled": torch.cat(sampled),
            **{f"x.{index}": torch.stack([x.flatten(0, 1) for x in fed]) for index, (_, fed, _) in enumerate(heads)},
            **{f"out.{i}": torch.stack([out.flatten(0, 1) for out in given]) for i, (_, _, given) in enumerate(heads)},
        }

    def training_outputs(self, calls: Mapping[str, list[Call]]) -> Outputs:
        return {
            "condition": calls["diffloss.net.cond_embed"][0][0],
            "head": calls["diffloss.net.final_layer"][0][1].flatten(0, 1),
            "encoder": calls["encoder_norm"][0][1],
        }

    def training_pass(self, sampler: Any, fixture: Fixture) -> Outputs:
        given, images = fixture.description["inputs"]["tf"], len(fixture.inputs["labels"])
        masked = given["masked"].removeprefix("orders[:, :").removesuffix("]")
        draw = TrainingDraw(
            times=input_of(fixture, given["t"]).floor().long().view(images, -1),
            noise_BLK=input_of(fixture, given["noise"]).unflatten(0, (images, -1)),
            order_BN=torch.tensor(fixture.description["inputs"]["orders"]),
            masked=int(masked),
        )
        return self.trained(sampler, fixture, draw)


def token_draw(number: int, images: int, settings: MaskedSettings) -> NamedDraw:
    """Return the recorded draw of tokens: the start has rows of images, a step those of both halves."""
    index, within = divmod(number, TokenDraws.count(settings.num_steps))
    step, half = divmod(within + 1, 2)
    rows = 2 * images if within and settings.cfg > 1 else images
    return NamedDraw(f"{index}.{step}", (half if within else 0) * images, rows)


Draws = Callable[[int, int], Tensor]
"""(number of a step, half of the rows) -> its noise (B, n, K)."""
HeadCalls = tuple[Tensor, list[Tensor], list[Tensor]]
"""Conditions (R, n, C) of a pass, states (R, n, K) fed to the head in each step, and its outputs (R, n, 2K)."""


def draws_of(noise: KeptNoise, index: int, settings: MaskedSettings) -> Draws:
    """Return the kept draws of the steps of pass number `index`."""
    first = 1 + index * TokenDraws.count(settings.num_steps)
    return lambda number, half: noise.normals[first + 2 * number + half]


def head_calls(calls: Mapping[str, list[Call]], head: str, steps: int) -> list[HeadCalls]:
    """Group the calls of a head by pass."""
    conditions = [z for z, _ in calls[f"{head}.cond_embed"]]
    fed = [x for x, _ in calls[f"{head}.input_proj"]]
    given = [out for _, out in calls[f"{head}.final_layer"]]
    starts = range(0, len(fed), steps)
    return [(conditions[at], fed[at : at + steps], given[at : at + steps]) for at in starts]


def both_halves(call: HeadCalls, strength: float | None, process: Process, temperature: float, draws: Draws) -> Tensor:
    """Tokens (R n, K) at the end of a pass, from the head's outputs; the unconditional half is read by nobody.

    It begins where the conditional one does, takes the guided noise, and keeps its own variance and draws.
    """
    _, fed, given = call
    images, ends = len(fed[0]) // (1 if strength is None else 2), []
    for half in range(1 if strength is None else 2):
        x_BnK = fed[0][:images]
        for number, out in enumerate(given):
            constants, last = process[len(given) - 1 - number], number == len(given) - 1
            guess, raw = out.float().chunk(2, dim=-1)
            guided = guess[:images]
            if strength is not None:
                guided = guess[images:] + strength * (guided - guess[images:])
            x_BnK = constants.mean(x_BnK, guided)
            if not last:
                log_variance = constants.log_variance(raw[half * images : (half + 1) * images])
                x_BnK = x_BnK + (0.5 * log_variance).exp() * draws(number, half) * temperature
        ends.append(x_BnK)
    return torch.cat(ends).flatten(0, 1)
