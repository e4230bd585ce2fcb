"""Models of a few thousand parameters, for tests."""

from __future__ import annotations

from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.tokenizers.multiscale_vq import VqVaeConfig
from arvbench.adapters.var import VarConfig, VarSampler, VarSettings

PATCH_NUMS = (1, 2, 3, 4)


def tiny_spec(*, cond_drop_rate: float = 0.1, checkpoint: bool = False, **changes) -> ModelSpec:
    """A VAR of a few thousand parameters."""
    sizes = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 5, "vocab_size": 24, "code_dim": 8}
    return ModelSpec(
        name="tiny",
        sampler=VarSampler,
        transformer=VarConfig(**{**sizes, **changes}, patch_nums=PATCH_NUMS, cond_drop_rate=cond_drop_rate),
        tokenizer=VqVaeConfig(
            vocab_size=24, z_channels=8, ch=32, ch_mult=(1, 1), num_res_blocks=1, v_patch_nums=PATCH_NUMS
        ),
        settings=VarSettings(cfg=1.5, top_k=12, top_p=0.9),
        settings_source="test",
        checkpoint=Checkpoint(
            transformer_file="tiny.pth",
            tokenizer_file="vae.pth",
            hub_repo="nobody/nothing",
            transformer_nesting=(("trainer", "var_wo_ddp"),),
            tokenizer_nesting=(("trainer", "vae_local"),),
        )
        if checkpoint
        else None,
    )
