"""The models of FlowAR."""

from __future__ import annotations

from typing import Any

from arvbench.adapters.flowar.sampler import FlowArSampler, FlowArSettings
from arvbench.adapters.flowar.transformer import FlowArConfig
from arvbench.adapters.latents.config import trunk
from arvbench.adapters.latents.models import DEMO_SIZES, DEMO_TOKENIZER, official_checkpoint
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.tokenizers.kl import KlConfig

_SOURCE = "OliverRensu/FlowAR README, evaluation commands; solver as in wangqiang9/FlowAR at 5745a96"


def _official(size: str, sizes: dict[str, Any], head: tuple[int, int], settings: FlowArSettings) -> ModelSpec:
    return ModelSpec(
        name=f"flowar-{size}",
        sampler=FlowArSampler,
        transformer=FlowArConfig(**sizes, diffloss_d=head[0], diffloss_w=head[1], cross=size != "s"),
        tokenizer=KlConfig(),
        settings=settings,
        settings_source=_SOURCE,
        checkpoint=official_checkpoint("OliverRen/FlowAR", f"FlowAR-{size.upper()}.pth"),
    )


FLOWAR_S = _official("s", trunk(768, 6, 12), (2, 1024), FlowArSettings(cfg=4.3, num_steps=25, guidance=0.9))
FLOWAR_L = _official("l", trunk(1024, 8, 16), (12, 1024), FlowArSettings(cfg=2.4, num_steps=25, guidance=0.9))
FLOWAR_H = _official("h", trunk(1536, 15, 16), (12, 1536), FlowArSettings(cfg=2.4, num_steps=50, guidance=0.7))

DEMO = ModelSpec(
    name="demo/flowar",
    sampler=FlowArSampler,
    transformer=FlowArConfig(
        **trunk(64, 1, 4) | {"decoder_depth": 2},
        diffloss_d=2,
        diffloss_w=64,
        cross=False,
        scale=(1, 2, 4),
        **DEMO_SIZES,
    ),
    tokenizer=DEMO_TOKENIZER,
    settings=FlowArSettings(cfg=3.0, num_steps=20, guidance=0.9),
    settings_source="chosen on the trained demo model",
    demo=True,
)
