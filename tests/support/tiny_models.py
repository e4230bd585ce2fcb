"""Models of a few thousand parameters, one function per family; keyword arguments change the transformer."""

from __future__ import annotations

from typing import Any, cast

import torch

from arvbench.adapters.dar.sampler import DarSampler, DarSettings
from arvbench.adapters.dar.tokenizer import DarTokenizerConfig
from arvbench.adapters.detailflow.sampler import DetailFlowConfig, DetailFlowSampler, DetailFlowSettings
from arvbench.adapters.detailflow.tokenizer import DetailFlowTokenizerConfig
from arvbench.adapters.flexvar.sampler import FlexVarConfig, FlexVarSampler, FlexVarSettings
from arvbench.adapters.flowar.sampler import FlowArSampler, FlowArSettings
from arvbench.adapters.flowar.transformer import FlowArConfig
from arvbench.adapters.himar.sampler import HiMarSampler, HiMarSettings
from arvbench.adapters.himar.transformer import HiMarConfig
from arvbench.adapters.hmar.checkpoints import TRAINING_NESTING
from arvbench.adapters.hmar.sampler import HmarSampler, HmarSettings
from arvbench.adapters.hmar.transformer import HmarConfig
from arvbench.adapters.latents.masked import MaskedSettings
from arvbench.adapters.latents.sampler import LatentSettings
from arvbench.adapters.llamagen import LlamaGenSampler
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.mar.sampler import MarSampler
from arvbench.adapters.mar.transformer import MarConfig
from arvbench.adapters.mvar.sampler import MvarBlock, MvarConfig, MvarSampler, MvarSettings
from arvbench.adapters.nar import NarConfig, NarSampler
from arvbench.adapters.par import ParConfig, ParSampler
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.token_grid.llama import LlamaConfig
from arvbench.adapters.token_grid.sampler import TokenGridSettings
from arvbench.adapters.tokenizers.kl import KlConfig
from arvbench.adapters.tokenizers.multiscale_vq import VqVaeConfig
from arvbench.adapters.tokenizers.vq import VqConfig
from arvbench.adapters.var import VarConfig, VarSampler, VarSettings
from arvbench.adapters.xar.sampler import XarSampler
from arvbench.adapters.xar.transformer import XarConfig

PATCH_NUMS = (1, 2, 3, 4)
SAMPLING = {"cfg": 1.5, "top_k": 12, "top_p": 0.9}
MASK_SCHEDULE = ((1,), (1, 3), (1, 3, 5), (4, 12))
"""Refinement of every scale but the first."""
NEXT_SCALE = {
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 2,
    "num_classes": 5,
    "vocab_size": 24,
    "code_dim": 8,
    "patch_nums": PATCH_NUMS,
}
TOKEN_GRID = {"dim": 32, "n_layer": 2, "n_head": 2, "num_classes": 5, "vocab_size": 24, "multiple_of": 16}
TOKEN_GRID_SETTINGS = TokenGridSettings(cfg=2.0, top_k=12, top_p=0.9)
TOKEN_GRID_FAMILIES: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "llamagen": (LlamaGenSampler, LlamaConfig, {}),
    "nar": (NarSampler, NarConfig, {}),
    "par": (ParSampler, ParConfig, {"ar_token_num": 4}),
}


def tiny_vq(z_channels: int = 8) -> VqConfig:
    """Return a VQ model that downsamples by two."""
    return VqConfig(
        codebook_size=24,
        codebook_embed_dim=8,
        z_channels=z_channels,
        ch=32,
        encoder_ch_mult=(1, 1),
        decoder_ch_mult=(1, 1),
        num_res_blocks=1,
    )


FILES = Checkpoint(
    transformer_file="tiny.pth",
    tokenizer_file="vae.pth",
    hub_repo="nobody/nothing",
    transformer_nesting=(("trainer", "var_wo_ddp"), ("trainer", "mvar_wo_ddp"), *TRAINING_NESTING),
    tokenizer_nesting=(("trainer", "vae_local"),),
)
"""Official files of a tiny next-scale model, for `checkpoint`; training checkpoints nest their parts."""


def _residual(name: str, sampler: Any, transformer: Any, settings: Any, checkpoint: Checkpoint | None) -> ModelSpec:
    tokenizer = VqVaeConfig(
        vocab_size=24, z_channels=8, ch=32, ch_mult=(1, 1), num_res_blocks=1, v_patch_nums=transformer.patch_nums
    )
    return ModelSpec(
        name=name,
        sampler=sampler,
        transformer=transformer,
        tokenizer=tokenizer,
        settings=settings,
        settings_source="test",
        checkpoint=checkpoint,
    )


def tiny_var(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    return _residual("tiny", VarSampler, VarConfig(**(NEXT_SCALE | changes)), VarSettings(**SAMPLING), checkpoint)


def tiny_mvar(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return an M-VAR of 4 mixer heads with 16 channels and 8 states each."""
    # 66 tokens: two full chunks of the mixer and two tokens more.
    sizes = NEXT_SCALE | {"d_state": 8, "headdim": 16, "patch_nums": (1, 2, 3, 4, 6)}
    return _residual("tiny", MvarSampler, MvarConfig(**(sizes | changes)), MvarSettings(**SAMPLING), checkpoint)


def build_mvar(spec: ModelSpec, **options: Any) -> MvarSampler:
    """Build a sampler with random weights, whose mixers skip and forget at many rates."""
    sampler = cast(MvarSampler, build_sampler(spec, weights="random:1", **options))
    with torch.no_grad():
        for block in sampler.transformer.blocks:
            mixer = cast(MvarBlock, block).mamba
            for name, values in mixer.initial_values().items():
                mixer.get_parameter(name).copy_(values)
            mixer.dt_bias.add_(2)
    return sampler


def tiny_hmar(
    *, mask_schedule: object = MASK_SCHEDULE, checkpoint: Checkpoint | None = None, **changes: Any
) -> ModelSpec:
    """Return an HMAR of three blocks per path, two of them shared."""
    transformer = HmarConfig(**(NEXT_SCALE | {"depth": 3, "n_layers_train": 1} | changes))
    settings = HmarSettings(**SAMPLING, mask_schedule=mask_schedule)
    return _residual("tiny-hmar", HmarSampler, transformer, settings, checkpoint)


def tiny_flexvar(**changes: Any) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        sampler=FlexVarSampler,
        transformer=FlexVarConfig(**(NEXT_SCALE | {"position_side": 8} | changes)),
        tokenizer=tiny_vq(z_channels=32),
        settings=FlexVarSettings(**SAMPLING),
        settings_source="test",
    )


def tiny_token_grid(family: str, *, side: int = 4, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return a LlamaGen, NAR or PAR on a map of `side` x `side` tokens."""
    sampler, config, sizes = TOKEN_GRID_FAMILIES[family]
    return ModelSpec(
        name=f"tiny-{family}",
        sampler=sampler,
        transformer=config(**(TOKEN_GRID | sizes | {"block_size": side * side} | changes)),
        tokenizer=tiny_vq(),
        settings=TOKEN_GRID_SETTINGS,
        settings_source="test",
        checkpoint=checkpoint,
    )


TINY_KL = KlConfig(embed_dim=4, ch=32, ch_mult=(1, 1), num_res_blocks=1, scale=0.5)
"""A VAE that downsamples by two."""
LATENT_TRUNK = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in
                (("embed_dim", 32), ("depth", 1), ("num_heads", 2))}  # fmt: skip


def tiny_xar(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return an xAR of four cells with four tokens each."""
    sizes = LATENT_TRUNK | {"img_size": 8, "vae_stride": 2, "vae_embed_dim": 4, "class_num": 5}
    return ModelSpec(
        name="tiny-xar",
        sampler=XarSampler,
        transformer=XarConfig(**(sizes | changes)),
        tokenizer=TINY_KL,
        settings=LatentSettings(cfg=2.0, num_steps=3),
        settings_source="test",
        checkpoint=checkpoint,
    )


def tiny_flowar(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return a FlowAR of three scales, whose head has one block with two heads."""
    sizes = LATENT_TRUNK | {"img_size": 8, "vae_stride": 2, "vae_embed_dim": 4, "class_num": 5}
    head = {"scale": (1, 2, 4), "diffloss_d": 1, "diffloss_w": 128, "cross": False}
    return ModelSpec(
        name="tiny-flowar",
        sampler=FlowArSampler,
        transformer=FlowArConfig(**(sizes | head | changes)),
        tokenizer=TINY_KL,
        settings=FlowArSettings(cfg=2.0, num_steps=4, guidance=0.9),
        settings_source="test",
        checkpoint=checkpoint,
    )


def tiny_mar(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return a MAR of sixteen tokens in five passes."""
    sizes = LATENT_TRUNK | {"img_size": 8, "vae_stride": 2, "vae_embed_dim": 4, "class_num": 5, "buffer_size": 3}
    return ModelSpec(
        name="tiny-mar",
        sampler=MarSampler,
        transformer=MarConfig(**(sizes | {"diffloss_d": 1, "diffloss_w": 24} | changes)),
        tokenizer=TINY_KL,
        # The head of random weights makes latents of 1e4 from the noisiest steps.
        settings=MaskedSettings(cfg=2.0, num_steps=3, num_iter=5, last_number=499),
        settings_source="test",
        checkpoint=checkpoint,
    )


def tiny_himar(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return a Hi-MAR of four pivots in three passes, and sixteen tokens in two."""
    sizes = LATENT_TRUNK | {"img_size": 8, "vae_stride": 2, "vae_embed_dim": 4, "class_num": 5, "buffer_size": 3}
    heads = {"diffloss_d": 1, "diffloss_w": 24, "gdm_d": 1, "gdm_w": 16, "head": 2}
    # Some of the few pivots are known in training.
    pivots: dict[str, Any] = {"cond_scale": 2, "cond_dim": 4, "mask_ratio_min": 0.1}
    return ModelSpec(
        name="tiny-himar",
        sampler=HiMarSampler,
        transformer=HiMarConfig(**(sizes | heads | pivots | changes)),
        tokenizer=TINY_KL,
        settings=HiMarSettings(
            cfg=2.0, re_cfg=3.0, num_steps=3, map_steps=4, pivot_iter=3, num_iter=2, last_number=499
        ),
        settings_source="test",
        checkpoint=checkpoint,
    )


def tiny_detailflow(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return a DetailFlow of 16 tokens in groups of four, and pictures of up to 4 x 4 patches."""
    sizes = {"enc_dim": 16, "enc_heads": 2, "enc_layers": 2, "dec_dim": 24, "dec_heads": 2, "dec_layers": 1}
    return ModelSpec(
        name="tiny-detailflow",
        sampler=DetailFlowSampler,
        transformer=DetailFlowConfig(**(TOKEN_GRID | {"block_size": 16, "group_size": 4} | changes)),
        tokenizer=DetailFlowTokenizerConfig(
            num_latent_tokens=16, codebook_size=24, group_size=4, patch_size=2, positions=16, **sizes
        ),
        settings=DetailFlowSettings(cfg=2.0, top_k=12, top_p=0.9),
        settings_source="test",
        checkpoint=checkpoint,
    )


def tiny_dar(*, checkpoint: Checkpoint | None = None, **changes: Any) -> ModelSpec:
    """Return a D-AR of 8 tokens, whose decoder takes 4 steps of 2 conditions each."""
    groups = {"num_denoising_steps": 4, "num_query_groups": 4, "num_all_queries": 8, "queries_per_step": 2}
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1, "diff_depth": 1}
    widths = {"encoder_dim": 64, "decoder_dim": 64, "diff_dim": 64}
    return ModelSpec(
        name="tiny-dar",
        sampler=DarSampler,
        transformer=LlamaConfig(**(TOKEN_GRID | {"block_size": 8} | changes)),
        tokenizer=DarTokenizerConfig(
            encoder_patch_size=4,
            diff_patch_size=4,
            vq_codebook_size=24,
            sampling_resolution=8,
            **groups,
            **layers,
            **widths,
        ),
        settings=DarSettings(cfg=1.2, cfg_end=3.0, top_k=12, top_p=0.9),
        settings_source="test",
        checkpoint=checkpoint,
    )
