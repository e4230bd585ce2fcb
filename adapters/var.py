"""VAR: next-scale prediction with a KV cache over all coarser scales.

The simplest next-scale family (arvbench.adapters.next_scale.sampler): every step predicts all tokens of one scale from
the f_hat accumulated over the coarser scales, resized to that scale; attention sees all cached scales without a mask;
guidance ramps up linearly over the scales.

Source   VAR (arXiv:2404.02905); behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

from typing import ClassVar

from arvbench.adapters.next_scale.sampler import NextScaleSampler
from arvbench.adapters.next_scale.smoothing import SmoothSettings
from arvbench.adapters.next_scale.transformer import DEMO_SIZES, PATCH_NUMS_256, NextScaleConfig
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.tokenizers.multiscale_vq import DEMO_TOKENIZER, VqVaeConfig

VarConfig = NextScaleConfig


class VarSettings(SmoothSettings):
    """`cfg` is the guidance strength at the last scale, ramped up linearly from 0 at the first."""


class VarSampler(NextScaleSampler):
    """VAR behind the sampling interface."""

    family: ClassVar = "var"


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
