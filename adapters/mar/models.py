"""The models of MAR."""

from __future__ import annotations

from typing import Any

from arvbench.adapters.latents.config import trunk
from arvbench.adapters.latents.masked import MaskedSettings
from arvbench.adapters.latents.models import DEMO_SIZES, DEMO_TOKENIZER, official_checkpoint
from arvbench.adapters.mar.sampler import MarSampler
from arvbench.adapters.mar.transformer import MarConfig
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.tokenizers.kl import KlConfig

_SOURCE = "LTH14/mar README at fe470ac, evaluation commands"


def _official(size: str, sizes: dict[str, Any], head: tuple[int, int], cfg: float) -> ModelSpec:
    return ModelSpec(
        name=f"mar-{size[0]}",
        sampler=MarSampler,
        transformer=MarConfig(**sizes, diffloss_d=head[0], diffloss_w=head[1]),
        tokenizer=KlConfig(),
        settings=MaskedSettings(cfg=cfg, num_steps=100, num_iter=256),
        settings_source=_SOURCE,
        checkpoint=official_checkpoint("jadechoghari/mar", f"mar_{size}/checkpoint-last.pth", averaged=True),
    )


MAR_B = _official("base", trunk(768, 12, 12), (6, 1024), 2.9)
MAR_L = _official("large", trunk(1024, 16, 16), (8, 1280), 3.0)
MAR_H = _official("huge", trunk(1280, 20, 16), (12, 1536), 3.2)

DEMO = ModelSpec(
    name="demo/mar",
    sampler=MarSampler,
    transformer=MarConfig(
        **trunk(64, 2, 4),
        **DEMO_SIZES,
        diffloss_d=2,
        diffloss_w=64,
        buffer_size=4,
        mask_ratio_min=0.1,
        diffusion_batch_mul=2,
    ),
    tokenizer=DEMO_TOKENIZER,
    # From the noisiest steps on, small errors of the predicted noise grow to latents of 1e4.
    settings=MaskedSettings(cfg=3.0, num_steps=25, num_iter=8, last_number=949),
    settings_source="chosen on the trained demo model",
    demo=True,
)
