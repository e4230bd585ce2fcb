"""LlamaGen: next-token prediction over the token map in raster order; the baseline that NAR and PAR start from.

What is particular to this family: every pass feeds one token and draws the next; 256 passes for 16x16 tokens.

Source   LlamaGen (arXiv:2406.06525); behaviour of FoundationVision/LlamaGen at ce98ec4
"""

from __future__ import annotations

from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.token_grid.llama import LlamaConfig
from arvbench.adapters.token_grid.sampler import (
    DEMO_SIZES,
    DEMO_TOKENIZER,
    LEARNT,
    Pass,
    TokenGridSampler,
    TokenGridSettings,
    official_checkpoint,
    token_grid_spec,
)
from arvbench.adapters.tokenizers.vq import VqConfig


class LlamaGenSampler(TokenGridSampler):
    """LlamaGen behind the sampling interface. `cfg_interval` counts passes after the second token's."""

    @staticmethod
    def passes(config: LlamaConfig) -> list[Pass]:
        first = Pass(kind="token", feeds=(LEARNT,), draws=(0,), clock=None)
        return [first] + [
            Pass(kind="token", feeds=(n - 1,), draws=(n,), clock=n - 1) for n in range(1, config.block_size)
        ]

    @staticmethod
    def unfed(config: LlamaConfig) -> tuple[int, ...]:
        return ()


# (dim, n_layer, n_head); PAR has the same sizes.
SIZES = {"b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1280, 36, 20), "xxl": (1536, 48, 24), "3b": (3200, 24, 32)}

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
    dim, n_layer, n_head = SIZES[size]
    return token_grid_spec(
        f"llamagen-{size}-{px}",
        "llamagen",
        LlamaGenSampler,
        LlamaConfig(dim=dim, n_layer=n_layer, n_head=n_head, block_size=(px // 16) ** 2),
        VqConfig(),
        TokenGridSettings(cfg=_CFG[size]),
        _SOURCE_384 if px == 384 else _SOURCE_256,
        checkpoint=official_checkpoint("FoundationVision/LlamaGen", f"c2i_{size.upper()}_{px}.pt"),
    )


LLAMAGEN_B_256 = _official("b", 256)
LLAMAGEN_B_384 = _official("b", 384)
LLAMAGEN_L_256 = _official("l", 256)
LLAMAGEN_L_384 = _official("l", 384)
LLAMAGEN_XL_384 = _official("xl", 384)
LLAMAGEN_XXL_384 = _official("xxl", 384)
LLAMAGEN_3B_384 = _official("3b", 384)

DEMO = token_grid_spec(
    "demo/llamagen",
    "llamagen",
    LlamaGenSampler,
    LlamaConfig(n_layer=4, **DEMO_SIZES),
    DEMO_TOKENIZER,
    TokenGridSettings(cfg=1.5),
    "chosen on the trained demo model",
    demo=True,
)
