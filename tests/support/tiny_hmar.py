"""An HMAR of a few thousand parameters, for tests."""

from __future__ import annotations

from arvbench.adapters.hmar.checkpoints import TRAINING_NESTING
from arvbench.adapters.hmar.sampler import HmarConfig, HmarSampler, HmarSettings
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.tokenizers.multiscale_vq import VqVaeConfig

PATCH_NUMS = (1, 2, 3, 4)
SCHEDULE = ((1,), (1, 3), (1, 3, 5), (4, 12))


def tiny_hmar_spec(*, checkpoint: bool = False, mask_schedule: object = SCHEDULE, **changes) -> ModelSpec:
    """Three blocks per path, of which two are shared; refinement of every scale but the first."""
    sizes = {"depth": 3, "n_layers_train": 1, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
    return ModelSpec(
        name="tiny-hmar",
        sampler=HmarSampler,
        transformer=HmarConfig(**{**sizes, "vocab_size": 24, "code_dim": 8, "patch_nums": PATCH_NUMS, **changes}),
        tokenizer=VqVaeConfig(
            vocab_size=24, z_channels=8, ch=32, ch_mult=(1, 1), num_res_blocks=1, v_patch_nums=PATCH_NUMS
        ),
        settings=HmarSettings(cfg=1.5, top_k=12, top_p=0.9, mask_schedule=mask_schedule),
        settings_source="test",
        checkpoint=Checkpoint(
            transformer_file="tiny.pth",
            tokenizer_file="vae.pth",
            hub_repo="nobody/nothing",
            transformer_nesting=TRAINING_NESTING,
        )
        if checkpoint
        else None,
    )
