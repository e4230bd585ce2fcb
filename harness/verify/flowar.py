"""Replay of FlowAR fixtures.

Shapes   B images, R forward rows, n inner passes of a scale, l tokens of a scale, L of all scales, C width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from arvbench.adapters.call import Samples
from arvbench.adapters.flowar.sampler import FlowArSettings
from arvbench.adapters.flowar.solver import evaluation_times
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.latents import DrawName, LatentReplay, NamedDraw, Sampled, input_of, velocity_draw
from arvbench.harness.verify.replay import Call, Outputs, Run


def run_settings(run: Run) -> FlowArSettings:
    """Return our settings for official arguments."""
    return FlowArSettings(cfg=run["cfg"], num_steps=run["num_steps"], guidance=run["guidance"])


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowArReplay(LatentReplay):
    """Scales, and the state and output of every evaluation of the head."""

    def draw_name(self, sampler: Any, settings: Any) -> DrawName:
        def name(number: int, images: int) -> NamedDraw:
            scale, half = divmod(number, 2)
            return NamedDraw(f"{scale}", half * images, 2 * images)

        return name

    def inner_outputs(self, done: Sampled) -> Outputs:
        samples, calls, settings = done.samples, done.calls, done.settings
        times = evaluation_times(settings.num_steps)
        passes, scales = len(times) - 1, len(samples.tokens)
        fed = [x_RlK for x_RlK, _ in calls["flownet.input_proj"]]
        given = [v_RlK.float() for _, v_RlK in calls["flownet.final_layer"]]
        at = [slice(scale * passes, (scale + 1) * passes) for scale in range(scales)]
        ends = [_end(fed[rows], given[rows], times, samples, scale, settings) for scale, rows in enumerate(at)]
        conditions = [z_RlC for z_RlC, _ in calls["flownet.cond_embed"]][::passes]
        return {
            "ends": torch.cat(ends, dim=1),
            "condition": torch.cat(conditions, dim=1),
            "t": torch.tensor(times[:-1], dtype=torch.float64),
            "head_evaluations": torch.tensor([len(fed) // scales] * scales),
            **{f"x.{scale}": torch.stack(fed[at[scale]]) for scale in (1, 2)},
            **{f"v.{scale}": torch.stack(given[at[scale]]) for scale in (1, 2)},
        }

    def training_outputs(self, calls: Mapping[str, list[Call]]) -> Outputs:
        return {"condition": torch.cat([z_BlC for z_BlC, _ in calls["flownet.cond_embed"]], dim=1)}

    def training_pass(self, sampler: Any, fixture: Fixture) -> Outputs:
        times = [input_of(fixture, entry) for entry in fixture.description["inputs"]["tf"]["t"]]
        return self.trained(sampler, fixture, velocity_draw(fixture, torch.stack(times, dim=1)))


def _end(
    fed: list[Tensor], given: list[Tensor], times: list[float], samples: Samples, scale: int, settings: FlowArSettings
) -> Tensor:
    """Both halves (R, l, K) at the end of a scale: the latents, and the half that is not kept, from its velocities.

    Guidance does not act at the first time of any fixture, so that the head is fed the start of both halves.
    """
    images, full = len(samples.labels), 1 + (settings.cfg - 1) * scale / (len(samples.tokens) - 1)
    second_BlK = fed[0][images:].double()
    for v_RlK, (time, after) in zip(given, pairwise(times), strict=True):
        cond_BlK, uncond_BlK = v_RlK.double().chunk(2)
        guided = full > 1 and time <= settings.guidance
        v_BlK = uncond_BlK + full * (cond_BlK - uncond_BlK) if guided else uncond_BlK
        second_BlK = second_BlK + v_BlK * (after - time)
    return torch.cat((samples.tokens[scale], second_BlK.float()))
