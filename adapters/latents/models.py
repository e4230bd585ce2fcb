"""Parts of the families' models that are the same: checkpoints of the released ones, sizes of the demo ones."""

from __future__ import annotations

from arvbench.adapters.sampler import Checkpoint
from arvbench.adapters.tokenizers.kl import KlConfig


def official_checkpoint(hub_repo: str, file: str, *, averaged: bool = False) -> Checkpoint:
    """Checkpoint of a released transformer; all families use the same KL-16.

    `averaged`: a training checkpoint, of which the running average of the weights is sampled.
    """
    return Checkpoint(
        transformer_file=file,
        tokenizer_file="kl16.ckpt",
        hub_repo=hub_repo,
        tokenizer_repo="xwen99/mar-vae-kl16",
        transformer_nesting=(("model_ema",), ("model",)) if averaged else (("model",), ("model_ema",)),
        tokenizer_nesting=(("model",),),
    )


DEMO_TOKENIZER = KlConfig(embed_dim=8, ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, scale=0.57, kl_weight=3e-3)
"""Demo VAE: 32 px to a 4x4 map."""
DEMO_SIZES = {"img_size": 32, "vae_stride": 8, "vae_embed_dim": 8, "class_num": 10}
"""Arguments shared by the demo models of all families: 32 px on a 4x4 map."""
