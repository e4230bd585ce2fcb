"""Replay of fixtures of families whose tokens form no map: runs, the training pass, and what all tokenizers have.

Shapes   B images, N tokens of an image, D code channels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.adapters.token_grid.passes import LEARNT
from arvbench.adapters.token_grid.sampler import TokenGridSampler
from arvbench.adapters.token_grid.sequence import SequenceSampler
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.replay import Outputs, Recorder, Run, prefixed, recorded
from arvbench.harness.verify.token_grid import RecordingNoise, TokenGridReplay


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceReplay(TokenGridReplay):
    """Replay of one family; `tokenizer_outputs` are under "vq." unless their names have a prefix."""

    tokenizer_outputs: Callable[[SequenceSampler, Fixture], Outputs]
    run_image: Callable[[SequenceSampler, Fixture, Tensor], Tensor]
    """Raw image (B, 3, H, W) of a run's tokens (B, N)."""

    def run_outputs(self, sampler: TokenGridSampler, fixture: Fixture, run: Run) -> Outputs:
        assert isinstance(sampler, SequenceSampler)
        settings, noise, recorder = self.run_settings(run), RecordingNoise(run["torch_seed"] or 0), Recorder()
        samples = sampler.sample(fixture.inputs["labels"], settings, noise=noise, observer=recorder)
        tokens = torch.cat(samples.tokens, dim=1)
        return {
            "tokens": tokens,
            "logits_pre_cfg": torch.cat([step.logits_pre_cfg for step in recorder.outputs], dim=1),
            "logits_post_cfg": torch.cat([step.logits for step in recorder.outputs], dim=1),
            "probs": torch.cat(noise.probs, dim=1),
            "quant": sampler.tokenizer.quantize.lookup(tokens, (1, tokens.shape[1]))[:, :, 0].transpose(1, 2),
            "image": self.run_image(sampler, fixture, tokens),
        }

    def pass_outputs(self, sampler: TokenGridSampler, fixture: Fixture) -> Outputs:
        assert isinstance(sampler, SequenceSampler)
        plan = sampler.plan
        table = sampler.position_table(sampler.spec.transformer)
        return {
            "rope_table": table[[LEARNT, *range(len(table) - 1)]],
            "mask": plan.trained_mask_LL.to(torch.uint8),
            "num_forward_passes": torch.tensor(len(plan.passes)),
            "step_gen_order": torch.tensor([number for number, p in enumerate(plan.passes) for _ in p.draws]),
            **prefixed("tf", self._forced(sampler, fixture)),
            **self.tokenizer_outputs(sampler, fixture),
        }

    @staticmethod
    def _forced(sampler: SequenceSampler, fixture: Fixture) -> Outputs:
        tokens, labels = sampler.from_raster(fixture.inputs["tf_ids"].to(sampler.device)), fixture.inputs["labels"]
        with recorded(sampler.transformer, r"layers\.\d+") as calls:
            logits = sampler.teacher_forced(tokens, labels)
        return {
            "logits": logits,
            "hidden": torch.stack([output for ((_, output),) in calls.values()]),
            "loss": sampler.loss(tokens, labels).detach().view(1),
        }
