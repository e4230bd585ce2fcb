"""LlamaGen: next-token prediction over the token map in raster order; the baseline of NAR and PAR.

Specific to LlamaGen: every pass feeds one token and draws the next, in 256 passes for 16x16 tokens.

Source   LlamaGen (arXiv:2406.06525); behaviour of FoundationVision/LlamaGen at ce98ec4
"""

from __future__ import annotations

from typing import ClassVar

from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.token_grid.llama import DEMO_SIZES, SIZES, LlamaConfig
from arvbench.adapters.token_grid.passes import LEARNT, Pass
from arvbench.adapters.token_grid.sampler import (
    DEMO_TOKENIZER,
    TokenGridSampler,
    TokenGridSettings,
    official_checkpoint,
)
from arvbench.adapters.tokenizers.vq import VqConfig


class LlamaGenSampler(TokenGridSampler):
    """LlamaGen behind the sampling interface. `cfg_interval` counts passes, from 0 at the second token."""

    family: ClassVar = "llamagen"

    @staticmethod
    def passes(config: LlamaConfig) -> list[Pass]:
        first = Pass(kind="token", feeds=(LEARNT,), draws=(0,), clock=None)
        return [first] + [
            Pass(kind="token", feeds=(n - 1,), draws=(n,), clock=n - 1) for n in range(1, config.block_size)
        ]

    @staticmethod
    def unfed(config: LlamaConfig) -> tuple[int, ...]:
        return ()


_CFG = {"b": 2.0, "l": 2.0, "xl": 1.75, "xxl": 1.75, "3b": 1.65}
_SOURCE_384 = (
    "FoundationVision/LlamaGen GETTING_STARTED and autoregressive/sample/sample_c2i_ddp.py at ce98ec4; evaluation "
    "resizes its 384 px images to 256 px (bicubic), which is no part of sampling"
)
_SOURCE_256 = (
    "FoundationVision/LlamaGen at ce98ec4 states no guidance for its 256 px models: that of the 384 px ones is taken; "
    "the rest as in autoregressive/sample/sample_c2i_ddp.py"
)


def _official(size: str, px: int) -> ModelSpec:
    return ModelSpec(
        name=f"llamagen-{size}-{px}",
        sampler=LlamaGenSampler,
        transformer=LlamaConfig(**SIZES[size], block_size=(px // 16) ** 2),
        tokenizer=VqConfig(),
        settings=TokenGridSettings(cfg=_CFG[size]),
        settings_source=_SOURCE_384 if px == 384 else _SOURCE_256,
        checkpoint=official_checkpoint("FoundationVision/LlamaGen", f"c2i_{size.upper()}_{px}.pt"),
        no_recipe="" if px == 384 else "its source states no guidance for the models that draw 256 px",
    )


LLAMAGEN_B_256 = _official("b", 256)
LLAMAGEN_B_384 = _official("b", 384)
LLAMAGEN_L_256 = _official("l", 256)
LLAMAGEN_L_384 = _official("l", 384)
LLAMAGEN_XL_384 = _official("xl", 384)
LLAMAGEN_XXL_384 = _official("xxl", 384)
LLAMAGEN_3B_384 = _official("3b", 384)

DEMO = ModelSpec(
    name="demo/llamagen",
    sampler=LlamaGenSampler,
    transformer=LlamaConfig(n_layer=4, **DEMO_SIZES),
    tokenizer=DEMO_TOKENIZER,
    settings=TokenGridSettings(cfg=1.5),
    settings_source="chosen on the trained demo model",
    demo=True,
)
