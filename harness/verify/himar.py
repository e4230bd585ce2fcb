"""Replay of Hi-MAR fixtures.

Shapes   B images, R forward rows, P pivots, n tokens of a pass, N fine tokens, K latent channels, h w sides of the map
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from arvbench.adapters.himar.sampler import HiMarSettings, MapDraws
from arvbench.adapters.himar.transformer import HiMar
from arvbench.adapters.latents.blocks import number_features
from arvbench.adapters.latents.diffusion import process_of
from arvbench.adapters.latents.masked import marked, passes_of
from arvbench.adapters.latents.mlp_head import TokenDraws
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.latents import DrawName, LatentReplay, NamedDraw, Sampled, input_of
from arvbench.harness.verify.mar import both_halves, diffusion_steps, draws_of, head_calls, token_draw
from arvbench.harness.verify.replay import Call, Outputs, Run

WATCHED = r"diffloss\.net\.(input_proj|final_layer|cond_embed)|cond_z_proj|cond_diffloss\.net(\.c_embedder)?"
NO_EFFECT = frozenset(
    {"num_sampling_steps", "dit_sampling_steps", "mlp_ratio", "ratio", "resolution", "downsample", "patch_size"}
)
"""Official arguments that the sampling settings hold here, or that change no recorded output."""


def run_settings(run: Run) -> HiMarSettings:
    """Return our settings for official arguments."""
    steps, map_steps = diffusion_steps(run["num_sampling_steps"]), diffusion_steps(run["dit_sampling_steps"])
    assert steps["last_number"] == map_steps["last_number"], "both diffusions begin at one step here"
    return HiMarSettings(
        cfg=run["cfg"],
        re_cfg=run["re_cfg"],
        num_iter=run["num_iter"],
        pivot_iter=4 * run["cond_scale"],
        cfg_schedule=run["cfg_schedule"],
        temperature=run["temperature"],
        map_steps=map_steps["num_steps"],
        **steps,
    )


def spec_settings(fixture: Fixture) -> HiMarSettings:
    """Return settings of the recorded model."""
    run = {"cfg": 1, "re_cfg": 1, "num_iter": 1, "cfg_schedule": "linear", "temperature": 1}
    return run_settings({**run, **fixture.model_args})


@dataclass(frozen=True, slots=True, kw_only=True)
class HiMarReplay(LatentReplay):
    """Passes of both phases, and the state and output of every evaluation of their heads."""

    def settings_of(self, fixture: Fixture, run: Run) -> Any:
        return self.run_settings({**run, **fixture.model_args})

    def draw_name(self, sampler: Any, settings: Any) -> DrawName:
        pivot_draws = settings.pivot_iter * TokenDraws.count(settings.num_steps)

        def name(number: int, images: int) -> NamedDraw:
            if number < pivot_draws:
                draw = token_draw(number, images, settings)
                return draw._replace(name=f"1.{draw.name}")
            index, within = divmod(number - pivot_draws, MapDraws.count(settings.map_steps))
            if within == 0:
                return NamedDraw(f"2.{index}.0", 0, images)
            step, place = divmod(within - 1, 4)
            rows = 2 * images if settings.cfg > 1 else images
            return NamedDraw(f"2.{index}.{2 * step + 1 + place // 2}", place % 2 * images, rows)

        return name

    def inner_outputs(self, done: Sampled) -> Outputs:
        settings, pivots_BPK, orders = done.settings, done.samples.tokens[0], done.noise.drawn_orders
        count, guided = settings.pivot_iter, settings.cfg > 1
        process = process_of(settings.num_steps, settings.last_number)
        heads = head_calls(done.calls, "diffloss.net", settings.num_steps)
        passes = passes_of(pivots_BPK.shape[1], count)
        strengths = [part.strength(settings, settings.re_cfg) if guided else None for part in passes]
        sampled = [
            both_halves(call, strengths[index], process, settings.temperature, draws_of(done.noise, index, settings))
            for index, call in enumerate(heads)
        ]
        calls, steps = done.calls["cond_diffloss.net"], settings.map_steps
        maps = [calls[at : at + steps] for at in range(0, len(calls), steps)]
        conditions = [z_RNC for z_RNC, _ in done.calls["cond_diffloss.net.c_embedder"]][::steps]
        return {
            "pivots": _as_map(pivots_BPK),
            "orders": torch.cat((orders[0], orders[1] + orders[0].shape[1]), dim=1),
            "pivots_per_pass": torch.tensor([step.new_tokens for step in done.steps[:count]]),
            "dit_timesteps": torch.tensor(process_of(steps, settings.last_number).numbers).flip(0),
            "condition1": torch.cat([condition.flatten(0, 1) for condition, _, _ in heads]),
            "sampled1": torch.cat(sampled),
            "pivot_z": done.calls["cond_z_proj"][-1][0],
            "condition2": torch.stack([_as_map(z_RNC) for z_RNC in conditions]),
            "maps": torch.stack([_both_halves_of_map(done, number, maps[number]) for number in range(len(maps))]),
            **{f"x.{number}": torch.stack([x for x, _ in map_calls]) for number, map_calls in enumerate(maps)},
            **{f"eps.{number}": torch.stack([out for _, out in map_calls]) for number, map_calls in enumerate(maps)},
        }

    def training_pass(self, sampler: Any, fixture: Fixture) -> Outputs:
        """Return conditions of both phases and outputs of both heads: the official training pass cannot run."""
        given, model = fixture.description["inputs"]["tf"], cast(HiMar, sampler.modules()["transformer"])
        config, labels_B = model.config, sampler.check_labels(fixture.inputs["labels"])
        orders = torch.tensor(fixture.description["inputs"]["orders"]).to(sampler.device)
        pivots_BPK, map_BKhw, z_BPC, head_noise, map_noise, head_t, map_t = (
            input_of(fixture, given[name]).to(sampler.device)
            for name in ("pivots", "latents", "pivot_z", "head_noise", "dit_noise", "head_t", "dit_t")
        )
        masked = int(given["masked_phase1"].removeprefix("orders[:, :").partition("]")[0])
        end = int(given["masked_phase2"].removeprefix(f"orders[:, {config.pivots}:").removesuffix("]"))
        classes_B1C, map_BNK = model.classes(labels_B), map_BKhw.flatten(2).transpose(1, 2)
        known_Bk = orders[:, masked : config.pivots].sort(dim=1).values
        phase1 = model.conditions(model.embed_pivots(pivots_BPK, known_Bk), known_Bk, classes_B1C, 0)
        known_Bk = (orders[:, end:] - config.pivots).sort(dim=1).values
        phase2 = model.conditions(*model.embed_map(z_BPC, map_BNK, known_Bk), classes_B1C, 1)
        out = model.token_head(head_noise, number_features(head_t.floor()), phase1[:, : config.pivots].flatten(0, 1))
        features_B1256 = number_features(map_t.floor()).unsqueeze(1)
        dit = model.map_head(map_noise, features_B1256, phase2[:, config.pivots :])
        return {"condition1": phase1, "condition2": phase2, "head": out, "dit": dit}


def _as_map(tokens_BNX: Tensor) -> Tensor:
    side = math.isqrt(tokens_BNX.shape[1])
    map_BXhw: Tensor = tokens_BNX.transpose(1, 2).unflatten(2, (side, side))
    return map_BXhw


def _both_halves_of_map(done: Sampled, number: int, calls: Sequence[Call]) -> Tensor:
    """Maps (R, K, h, w) at the end of a pass, from the head's outputs; the unconditional half is read by nobody.

    It begins where the conditional one does, takes the guided noise and the known tokens, and keeps its own draws.
    """
    settings, (order_BN, images) = done.settings, (done.noise.drawn_orders[1], len(done.samples.labels))
    before = done.outputs[settings.pivot_iter + number - 1].state[:, -order_BN.shape[1] :]
    part = passes_of(order_BN.shape[1], settings.num_iter)[number]
    known = _as_map(marked(order_BN.flip(1), part.known).unsqueeze(-1))
    process, map_BKhw = process_of(settings.map_steps, settings.last_number), _as_map(before)
    first = settings.pivot_iter * TokenDraws.count(settings.num_steps) + number * MapDraws.count(settings.map_steps)
    halves, ends = len(calls[0][1]) // images, []
    for half in range(halves):
        start = x_BKhw = done.noise.normals[first]
        for step, (_, out) in enumerate(calls):
            index = len(calls) - 1 - step
            guess = out[:images]
            if halves == 2:
                guess = out[images:] + part.strength(settings, settings.cfg) * (guess - out[images:])
            x_BKhw = torch.where(known, process[index].noisy(map_BKhw, start), x_BKhw)
            x_BKhw = process[index].mean(x_BKhw, guess)
            if index:
                deviation = math.exp(0.5 * process[index].fixed_log_variance)
                x_BKhw = x_BKhw + deviation * done.noise.normals[first + 3 + 4 * step + half] * settings.temperature
        ends.append(x_BKhw)
    return torch.cat(ends)
