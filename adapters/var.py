"""VAR: next-scale prediction with a KV cache over all coarser scales.

What is particular to this family: every step predicts all tokens of one scale from the accumulated f_hat of the scales
before it, resized to that scale; attention sees all cached scales without a mask; guidance ramps up linearly over the
scales; `more_smooth` replaces the sampled codes by a Gumbel-softmax mixture of code vectors. All of it but the last is
what next-scale models share (arvbench.adapters.next_scale.sampler).

Shapes   B images, l tokens of one scale, V codebook entries, K code channels, ph pw sides of one scale's token map
Source   VAR (arXiv:2404.02905); behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.next_scale.residual import DEMO_TOKENIZER, ResidualSampler
from arvbench.adapters.next_scale.sampler import ScaleDraw, ScaleRun
from arvbench.adapters.next_scale.transformer import DEMO_SIZES, PATCH_NUMS_256, NextScaleConfig, NextScaleTransformer
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.sampling import gumbel_softmax
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.tokenizers.multiscale_vq import VqVae, VqVaeConfig

VarConfig = NextScaleConfig


class VarSettings(SamplingSettings):
    """`cfg` is the strength at the last scale; it ramps up linearly from 0 at the first."""

    more_smooth: bool = False
    """Mix code vectors by Gumbel-softmax instead of taking the sampled ones; for pictures, not for FID."""

    def replayable(self) -> Self:
        return self.model_copy(update={"more_smooth": False})


class VarSampler(ResidualSampler):
    """VAR behind the sampling interface."""

    family: ClassVar = "var"

    @staticmethod
    def build_modules(spec: ModelSpec) -> dict[str, nn.Module]:
        return {"transformer": NextScaleTransformer(spec.transformer), "tokenizer": VqVae(spec.tokenizer)}

    def codes(self, drawn: ScaleDraw, step: Step, scale: int, run: ScaleRun) -> Tensor:
        if not cast(VarSettings, run.settings).more_smooth:
            return super().codes(drawn, step, scale, run)
        progress = scale / (run.scales - 1)
        # Hardens towards the last scale.
        temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
        exponential_BlV = run.noise.exponential(drawn.filtered_BlV, step.index)
        weights_BlV = gumbel_softmax(drawn.filtered_BlV * (1 + progress), exponential_BlV, temperature)
        mixed_BlK = weights_BlV @ self.tokenizer.quantize.embedding.weight
        mixed_BKpp = mixed_BlK.transpose(1, 2).unflatten(2, step.side)
        if run.edit is None:
            return mixed_BKpp
        # Known tokens are not mixed.
        keep_B1pp = run.edit.keep[scale].unflatten(1, step.side).unsqueeze(1)
        return torch.where(keep_B1pp, super().codes(drawn, step, scale, run), mixed_BKpp)


def _official(depth: int, patch_nums: tuple[int, ...] = PATCH_NUMS_256, *, shared_aln: bool = False) -> ModelSpec:
    return ModelSpec(
        name=f"var-d{depth}",
        sampler=VarSampler,
        transformer=VarConfig(
            depth=depth, embed_dim=64 * depth, num_heads=depth, shared_aln=shared_aln, patch_nums=patch_nums
        ),
        tokenizer=VqVaeConfig(v_patch_nums=patch_nums),
        settings=VarSettings(cfg=1.5, top_k=900, top_p=0.96),
        settings_source="FoundationVision/VAR README at 78b9539, model zoo and sampling section",
        checkpoint=Checkpoint(
            transformer_file=f"var_d{depth}.pth",
            tokenizer_file="vae_ch160v4096z32.pth",
            hub_repo="FoundationVision/var",
            transformer_nesting=(("trainer", "var_wo_ddp"),),
            tokenizer_nesting=(("trainer", "vae_local"),),
        ),
    )


VAR_D16 = _official(16)
VAR_D20 = _official(20)
VAR_D24 = _official(24)
VAR_D30 = _official(30)
VAR_D36 = _official(36, (1, 2, 3, 4, 6, 9, 13, 18, 24, 32), shared_aln=True)
"""512 px."""

DEMO = ModelSpec(
    name="demo/var",
    sampler=VarSampler,
    transformer=VarConfig(depth=4, embed_dim=96, num_heads=3, shared_aln=True, **DEMO_SIZES),
    tokenizer=DEMO_TOKENIZER,
    settings=VarSettings(cfg=0.5, top_p=0.98),
    settings_source="chosen on the trained demo model",
    demo=True,
)
