"""Token-grid models of a few thousand parameters, for tests: one per family, on a 4x4 map."""

from __future__ import annotations

from arvbench.adapters.llamagen import LlamaGenSampler
from arvbench.adapters.nar import NarConfig, NarSampler
from arvbench.adapters.par import ParConfig, ParSampler
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.token_grid.llama import LlamaConfig
from arvbench.adapters.token_grid.sampler import TokenGridSettings
from arvbench.adapters.tokenizers.vq import VqConfig

SIZES = {"dim": 32, "n_layer": 2, "n_head": 2, "num_classes": 5, "vocab_size": 24, "multiple_of": 16}
TOKENIZER = VqConfig(
    codebook_size=24,
    codebook_embed_dim=8,
    z_channels=8,
    ch=32,
    encoder_ch_mult=(1, 1),
    decoder_ch_mult=(1, 1),
    num_res_blocks=1,
)
SETTINGS = TokenGridSettings(cfg=2.0, top_k=12, top_p=0.9)

FAMILIES = {
    "llamagen": (LlamaGenSampler, LlamaConfig, {}),
    "nar": (NarSampler, NarConfig, {}),
    "par": (ParSampler, ParConfig, {"ar_token_num": 4}),
}


def tiny_grid_spec(family: str, *, side: int = 4, checkpoint: Checkpoint | None = None, **changes) -> ModelSpec:
    """A model of `family` on a map of `side` x `side` tokens."""
    sampler, config, own = FAMILIES[family]
    transformer = config(**{**SIZES, **own, "block_size": side * side, **changes})
    return ModelSpec(
        name=f"tiny-{family}",
        sampler=sampler,
        transformer=transformer,
        tokenizer=TOKENIZER,
        settings=SETTINGS,
        settings_source="test",
        checkpoint=checkpoint,
    )
