"""The models of Hi-MAR."""

from __future__ import annotations

from typing import Any

from arvbench.adapters.himar.sampler import HiMarSampler, HiMarSettings
from arvbench.adapters.himar.transformer import HiMarConfig
from arvbench.adapters.latents.config import trunk
from arvbench.adapters.latents.models import DEMO_SIZES, DEMO_TOKENIZER, official_checkpoint
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.tokenizers.kl import KlConfig

_SOURCE = "HiDream-ai/himar README at 1d378c1, evaluation commands"


def _official(
    size: str, sizes: dict[str, Any], head: tuple[int, int], map_head: tuple[int, int, int], settings: HiMarSettings
) -> ModelSpec:
    (blocks, width), (map_blocks, map_width, heads) = head, map_head
    return ModelSpec(
        name=f"himar-{size}",
        sampler=HiMarSampler,
        transformer=HiMarConfig(
            **sizes, diffloss_d=blocks, diffloss_w=width, gdm_d=map_blocks, gdm_w=map_width, head=heads
        ),
        tokenizer=KlConfig(),
        settings=settings,
        settings_source=_SOURCE,
        checkpoint=official_checkpoint(
            "HiDream-ai/Hi-MAR", f"Hi-MAR-{size.upper()}/checkpoint-last.pth", averaged=True
        ),
    )


def _settings(cfg: float, re_cfg: float, num_iter: int) -> HiMarSettings:
    return HiMarSettings(cfg=cfg, re_cfg=re_cfg, num_iter=num_iter, num_steps=100, pivot_iter=32, map_steps=250)


HIMAR_B = _official("b", trunk(768, 12, 12), (6, 1024), (6, 512, 8), _settings(2.5, 2.7, 4))
HIMAR_L = _official("l", trunk(1024, 16, 16), (8, 1280), (8, 512, 8), _settings(3.5, 3.5, 4))
HIMAR_H = _official("h", trunk(1280, 20, 16), (12, 1536), (12, 768, 12), _settings(3.2, 5.5, 12))

DEMO = ModelSpec(
    name="demo/himar",
    sampler=HiMarSampler,
    transformer=HiMarConfig(
        **trunk(64, 2, 4),
        **DEMO_SIZES,
        diffloss_d=2,
        diffloss_w=64,
        gdm_d=2,
        gdm_w=64,
        head=4,
        cond_scale=2,
        cond_dim=8,
        buffer_size=4,
        mask_ratio_min=0.1,
    ),
    tokenizer=DEMO_TOKENIZER,
    # From the noisiest steps on, small errors of the predicted noise grow to latents of 1e4.
    settings=HiMarSettings(cfg=3.0, re_cfg=3.0, num_iter=2, num_steps=25, pivot_iter=4, map_steps=25, last_number=949),
    settings_source="chosen on the trained demo model",
    demo=True,
)
