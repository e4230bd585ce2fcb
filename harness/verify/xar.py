"""Replay of xAR fixtures.

Shapes   B images, R forward rows, n inner passes of a cell, l tokens of a cell, K latent channels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from arvbench.adapters.latents.sampler import LatentSettings
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.latents import DrawName, LatentReplay, NamedDraw, Sampled, input_of, velocity_draw
from arvbench.harness.verify.replay import Outputs, Run


def run_settings(run: Run) -> LatentSettings:
    """Return our settings for official arguments."""
    return LatentSettings(cfg=run["cfg"], num_steps=run["num_steps"])


@dataclass(frozen=True, slots=True, kw_only=True)
class XarReplay(LatentReplay):
    """Cells, and the state and output of every inner pass."""

    def draw_name(self, sampler: Any, settings: Any) -> DrawName:
        def name(number: int, images: int) -> NamedDraw:
            cell, within = divmod(number, settings.num_steps)
            return NamedDraw(f"{cell}.{within}", 0, images)

        return name

    def inner_outputs(self, done: Sampled) -> Outputs:
        samples, calls, settings = done.samples, done.calls, done.settings
        images, tokens = samples.tokens[0].shape[:2]
        fed = [x_RlK[:images, -tokens:] for x_RlK, _ in calls["z_proj"]]
        given = [v_RlK[:, -tokens:].float() for _, v_RlK in calls["pred"]]
        cells = [slice(cell * settings.num_steps, (cell + 1) * settings.num_steps) for cell in range(2)]
        return {
            "cells": torch.stack(samples.tokens),
            "num_forward_passes": torch.tensor(len(fed)),
            **{f"x.{cell}": torch.stack(fed[at]) for cell, at in enumerate(cells)},
            **{f"v.{cell}": torch.stack(given[at]) for cell, at in enumerate(cells)},
        }

    def training_pass(self, sampler: Any, fixture: Fixture) -> Outputs:
        times = input_of(fixture, fixture.description["inputs"]["tf"]["t"])
        times_Bn = times.view(-1, len(fixture.inputs["labels"])).T
        return self.trained(sampler, fixture, velocity_draw(fixture, times_Bn))
