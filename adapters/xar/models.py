"""The models of xAR."""

from __future__ import annotations

from arvbench.adapters.latents.config import trunk
from arvbench.adapters.latents.models import DEMO_SIZES, DEMO_TOKENIZER, official_checkpoint
from arvbench.adapters.latents.sampler import LatentSettings
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.tokenizers.kl import KlConfig
from arvbench.adapters.xar.sampler import XarSampler
from arvbench.adapters.xar.transformer import XarConfig

_SOURCE = "OliverRensu/xAR README at 121e9c9, evaluation"


def _official(size: str, width: int, blocks: int, heads: int, settings: LatentSettings) -> ModelSpec:
    return ModelSpec(
        name=f"xar-{size}",
        sampler=XarSampler,
        transformer=XarConfig(**trunk(width, blocks, heads)),
        tokenizer=KlConfig(),
        settings=settings,
        settings_source=_SOURCE,
        checkpoint=official_checkpoint("OliverRen/xAR", f"xAR-{size.upper()}.pth"),
    )


XAR_B = _official("b", 768, 8, 12, LatentSettings(cfg=2.7, num_steps=40))
XAR_L = _official("l", 1024, 16, 16, LatentSettings(cfg=2.3, num_steps=50))
XAR_H = _official("h", 1280, 20, 16, LatentSettings(cfg=2.2, num_steps=50))

DEMO = ModelSpec(
    name="demo/xar",
    sampler=XarSampler,
    transformer=XarConfig(**trunk(64, 2, 4), **DEMO_SIZES),
    tokenizer=DEMO_TOKENIZER,
    settings=LatentSettings(cfg=3.0, num_steps=20),
    settings_source="chosen on the trained demo model",
    demo=True,
)
