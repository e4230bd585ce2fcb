"""Replay of CoDe fixtures: two VAR models, of which the first draws the first scales."""

from __future__ import annotations

from dataclasses import dataclass

from arvbench.adapters.methods.code import CodeConfig, CodeSampler, CodeSettings
from arvbench.adapters.sampler import ModelSpec
from arvbench.harness.verify import next_scale
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.next_scale import NextScaleReplay, ReplayedRun
from arvbench.harness.verify.replay import Outputs, Run


def both_models_outputs(run: ReplayedRun) -> Outputs:
    """Return the outputs of a run; labels that were drawn are recorded as one row."""
    outputs = next_scale.scale_outputs(run)
    return outputs | {"labels": outputs["labels"][None]}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeReplay(NextScaleReplay):
    """Replay of a drafter and a refiner."""

    def spec(self, fixture: Fixture) -> ModelSpec:
        tokenizer = self._config(self.tokenizer, fixture.tokenizer_args)
        drafter, refiner = (
            self._config(self.transformer, {**args, **self.sizes(tokenizer)})
            for args in (fixture.model_args, fixture.description["config"]["refiner"])
        )
        return ModelSpec(
            name=fixture.name,
            sampler=CodeSampler,
            transformer=CodeConfig(drafter=drafter, refiner=refiner),
            tokenizer=tokenizer,
            settings=self.spec_settings(fixture),
            settings_source="fixture",
        )


def run_settings(run: Run) -> CodeSettings:
    """Return our settings for official arguments, in which 0 switches a filter off."""
    return CodeSettings(
        cfg=run["cfg"],
        top_k_by_scale=tuple(run["top_k"]),
        top_p=run["top_p"] or None,
        temperatures=tuple(run["temp"]),
        draft_steps=run["draft_steps"],
    )
