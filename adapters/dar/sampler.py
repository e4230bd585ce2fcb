"""D-AR: LlamaGen's loop over a sequence of tokens, which a diffusion model decodes into pixels.

Specific to D-AR: positions are one-dimensional, and the class token has the first of them. The scale of guidance runs
from `cfg` to `cfg_end` over the tokens. The decoder starts from noise of the call.

Source   D-AR (arXiv:2505.23660); behaviour of showlab/D-AR at 3fb0f2d
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from arvbench.adapters.dar.tokenizer import DarTokenizer, DarTokenizerConfig
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.token_grid.llama import SIZES, LlamaConfig
from arvbench.adapters.token_grid.passes import LEARNT, Pass
from arvbench.adapters.token_grid.sampler import TokenGridSettings
from arvbench.adapters.token_grid.sequence import SequenceSampler
from arvbench.errors import UserError


class DarSettings(TokenGridSettings):
    """`cfg` is the scale of the first token, and with `cfg_end` None that of all."""

    cfg_end: float | None = Field(
        default=None, gt=1, description="scale of the last token, reached linearly; None keeps cfg"
    )


class DarSampler(SequenceSampler):
    """D-AR behind the sampling interface. `cfg_interval` counts passes, from 0 at the second token."""

    family: ClassVar = "dar"
    tokenizer_class: ClassVar = DarTokenizer
    keep_fp32: ClassVar = {
        "tokenizer": (
            *("patchify", "query_embedding", "query_linear", "encoder_layers", "quant_in_conv", "quantize"),
            *("quant_out_conv", "decoder_embedding", "decoder_layers", "diff_decoder"),
        )
    }

    @staticmethod
    def passes(config: LlamaConfig) -> list[Pass]:
        first = Pass(kind="token", feeds=(LEARNT,), draws=(0,), clock=None)
        return [first] + [
            Pass(kind="token", feeds=(n - 1,), draws=(n,), clock=n - 1) for n in range(1, config.block_size)
        ]

    @staticmethod
    def position_table(config: LlamaConfig) -> Tensor:
        """Rows (N + 1, P, 2): token n has position n + 1; the class, in the last row, has position 0."""
        pairs = config.head_dim // 2
        frequencies_P = config.rope_base ** -(torch.arange(pairs, dtype=torch.float32) * 2 / config.head_dim)
        positions_N = torch.tensor([*range(1, config.block_size + 1), 0], dtype=torch.float32)
        angles_NP = torch.outer(positions_N, frequencies_P)
        return torch.stack((angles_NP.cos(), angles_NP.sin()), dim=-1)

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        assert isinstance(settings, DarSettings)
        if settings.cfg_end is not None and settings.cfg < 1:
            raise UserError(f"{spec.name}: cfg_end needs a cfg of at least 1 to start from, got {settings.cfg}")

    def guidance(self, passes: Sequence[Pass], settings: SamplingSettings) -> list[float | None]:
        """Scale of every pass: constant, or a line whose start is above 1 so that it keeps unconditional rows."""
        assert isinstance(settings, DarSettings)
        if settings.cfg_end is None:
            return super().guidance(passes, settings)
        start = 1.001 if settings.cfg == 1 else settings.cfg
        scales = torch.linspace(start, settings.cfg_end, len(passes)).tolist()
        end = settings.cfg_interval
        on = [end is None or p.clock is None or p.clock <= end for p in passes]
        return [scale if guided else None for scale, guided in zip(scales, on, strict=True)]


_NO_RECIPE = "its source states the guidance of the smaller model only"


def _official(size: str, settings: DarSettings, source: str) -> ModelSpec:
    return ModelSpec(
        name=f"dar-{size}",
        sampler=DarSampler,
        transformer=LlamaConfig(**SIZES[size]),
        tokenizer=DarTokenizerConfig(),
        settings=settings,
        settings_source=source,
        checkpoint=Checkpoint(
            transformer_file=f"D-AR-{size.upper()}-360K.pt",
            tokenizer_file="D-AR-tokenizer_v1.pt",
            hub_repo="showlab/D-AR",
            transformer_nesting=(("model",), ("module",), ("state_dict",)),
            tokenizer_nesting=(("model",), ("module",), ("state_dict",)),
        ),
        no_recipe="" if size == "l" else _NO_RECIPE,
    )


DAR_L = _official("l", DarSettings(cfg=1.2, cfg_end=8.0), "showlab/D-AR README and its sampling script at 3fb0f2d")
DAR_XL = _official(
    "xl", DarSettings(cfg=1.2, cfg_end=8.0), "showlab/D-AR at 3fb0f2d states no guidance for XL: that of L is taken"
)

DEMO = ModelSpec(
    name="demo/dar",
    sampler=DarSampler,
    transformer=LlamaConfig(dim=96, n_layer=3, n_head=3, block_size=16, num_classes=10, vocab_size=256, multiple_of=32),
    tokenizer=DarTokenizerConfig(
        num_encoder_layers=1,
        num_decoder_layers=1,
        encoder_dim=64,
        decoder_dim=64,
        vq_codebook_size=256,
        num_denoising_steps=2,
        num_query_groups=2,
        num_all_queries=16,
        queries_per_step=8,
        table_rows=16,
        sampling_resolution=32,
        diff_dim=64,
        diff_patch_size=4,
        diff_depth=2,
        head_dim=16,
    ),
    settings=DarSettings(cfg=2.0),
    settings_source="chosen on the trained demo model",
    demo=True,
)
