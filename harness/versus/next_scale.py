"""Official samplers of next-scale models: VAR, M-VAR, HMAR and FlexVAR.

Shapes   B images, l tokens of one scale
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.flexvar.sampler import FlexVarSampler
from arvbench.adapters.hmar.refinement import mask_schedule
from arvbench.errors import UserError
from arvbench.harness.versus.official import Official, import_from


class OfficialVar(Official):
    """VAR: `autoregressive_infer_cfg`, which decodes by `fhat_to_img`."""

    family: ClassVar = "var"
    autocast: ClassVar = True
    module: ClassVar[str] = "models.var"
    model: ClassVar[str] = "VAR"
    blocks: ClassVar[tuple[str, ...]] = ("blocks",)

    transformer: Any
    tokenizer: Any

    def build(self) -> tuple[Any, Any]:
        tokenizer = self.build_tokenizer()
        decoder = "decode_code" if hasattr(tokenizer, "decode_code") else "fhat_to_img"
        setattr(tokenizer, decoder, self.observed(getattr(tokenizer, decoder)))
        config = self.sampler.spec.transformer
        module = import_from(self.root, self.module)
        transformer = getattr(module, self.model)(
            vae_local=tokenizer,
            num_classes=config.num_classes,
            depth=config.depth,
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            norm_eps=config.norm_eps,
            shared_aln=config.shared_aln,
            attn_l2_norm=config.attn_l2_norm,
            patch_nums=config.patch_nums,
            **self.more_arguments(),
        )
        return transformer, tokenizer

    def build_tokenizer(self) -> nn.Module:
        """Build the VQ-VAE. Its constructor fixes the decoder's depth; other depths are put in its place."""
        config = self.sampler.spec.tokenizer
        tokenizer: nn.Module = import_from(self.root, "models.vqvae").VQVAE(
            vocab_size=config.vocab_size,
            z_channels=config.z_channels,
            ch=config.ch,
            share_quant_resi=config.share_quant_resi,
            quant_conv_ks=config.quant_conv_ks,
            quant_resi=config.quant_resi,
            using_znorm=config.using_znorm,
            v_patch_nums=config.v_patch_nums,
            test_mode=True,
        )
        parts = import_from(self.root, "models.basic_vae")
        sizes: dict[str, Any] = {
            "ch": config.ch,
            "ch_mult": config.ch_mult,
            "num_res_blocks": config.num_res_blocks,
            "z_channels": config.z_channels,
        }
        tokenizer.encoder, tokenizer.decoder = parts.Encoder(double_z=False, **sizes), parts.Decoder(**sizes)
        return tokenizer

    def more_arguments(self) -> dict[str, Any]:
        """Return constructor arguments of this family alone."""
        return {}

    def check(self, settings: Any) -> None:
        if getattr(settings, "more_smooth", False):
            raise UserError("more_smooth is for pictures, not for benchmarks: it is not compared")

    def generate(self, labels_B: Tensor, settings: Any, seed: int) -> Tensor:
        images: Tensor = self.transformer.autoregressive_infer_cfg(
            B=len(labels_B),
            label_B=labels_B,
            g_seed=seed,
            cfg=settings.cfg,
            top_k=settings.top_k or 0,
            top_p=settings.top_p or 0.0,
        )
        return images

    def tokens(self) -> tuple[Tensor, ...]:
        return tuple(self._drawn.values())

    @contextmanager
    def hooks(self) -> Iterator[None]:
        self._drawn: dict[int, Tensor] = {}

        def looked_up(_: nn.Module, inputs: tuple[Tensor]) -> None:
            # A scale whose tokens are refined is looked up again: the last ids count.
            self._drawn[inputs[0].shape[1]] = inputs[0].clone()
            self.note_cache(self._cached())

        handle = self.tokenizer.quantize.embedding.register_forward_pre_hook(looked_up)
        try:
            yield
        finally:
            handle.remove()

    def _cached(self) -> int:
        """Bytes of keys and values that the attention layers hold now."""
        layers = [block.attn for name in self.blocks for block in getattr(self.transformer, name)]
        held = [getattr(layer, name, None) for layer in layers for name in ("cached_k", "cached_v")]
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)


class OfficialMVar(OfficialVar):
    """M-VAR: VAR's call; its mixers need mamba_ssm, and its attention flash_attn."""

    family: ClassVar = "mvar"
    module: ClassVar = "models.mvar"
    model: ClassVar = "MVAR"


class OfficialHmar(OfficialVar):
    """HMAR: `generate`, which refines scales by a schedule."""

    family: ClassVar = "hmar"
    module: ClassVar = "models.hmar"
    model: ClassVar = "HMAR"
    blocks: ClassVar = ("base_blocks", "ns_blocks")

    def build(self) -> tuple[Any, Any]:
        if self.device.type != "cuda":
            layers = import_from(self.root, "models.transformer_blocks")
            layers.BlockSparseAttention = partial(layers.BlockSparseAttention, device=self.device)
            self.shims.append("the tables of its block-sparse attention, unused in sampling, lie on the CPU")
        return super().build()

    def more_arguments(self) -> dict[str, Any]:
        return {"n_layers_train": self.sampler.spec.transformer.n_layers_train}

    def generate(self, labels_B: Tensor, settings: Any, seed: int) -> Tensor:
        sides = self.sampler.spec.transformer.sides
        schedule = [list(entry) for entry in mask_schedule(settings.mask_schedule, sides)]
        images: Tensor = self.transformer.generate(
            B=len(labels_B),
            label_B=labels_B,
            g_seed=seed,
            cfg=settings.cfg,
            top_k=settings.top_k or 0,
            top_p=settings.top_p or 0.0,
            mask=any(len(entry) > 1 for entry in schedule),
            mask_schedule=schedule,
            kv_cache=settings.kv_cache,
        )
        return images


class OfficialFlexVar(OfficialVar):
    """FlexVAR: `autoregressive_infer_cfg` with a list of scales; the map of the last scale is decoded."""

    family: ClassVar = "flexvar"
    module: ClassVar = "models.flexvar"
    model: ClassVar = "FlexVAR"

    def build_tokenizer(self) -> nn.Module:
        return llama_tokenizer(import_from(self.root, "models.vq_llama"), self.sampler.spec.tokenizer)

    def build(self) -> tuple[Any, Any]:
        transformer, tokenizer = super().build()
        # The official table of positions has 32 x 32; sampling reduces a table of any size.
        positions = self.state("transformer")["pos_1LC"]
        if transformer.pos_1LC.shape != positions.shape:
            transformer.pos_1LC = nn.Parameter(torch.empty_like(positions))
        return transformer, tokenizer

    def check(self, settings: Any) -> None:
        super().check(settings)
        if self.sampler.spec.tokenizer.code_dim != 32:
            raise UserError("the official FlexVAR decodes codes of 32 channels alone, whatever its tokenizer has")
        if any(height != width for height, width in cast(FlexVarSampler, self.sampler).sides(settings)):
            raise UserError("the official FlexVAR samples square maps; these scales are oblong")

    def generate(self, labels_B: Tensor, settings: Any, seed: int) -> Tensor:
        images: Tensor = self.transformer.autoregressive_infer_cfg(
            vqvae=self.tokenizer,
            B=len(labels_B),
            label_B=labels_B,
            infer_patch_nums=tuple(side for side, _ in cast(FlexVarSampler, self.sampler).sides(settings)),
            g_seed=seed,
            cfg=settings.cfg,
            top_k=settings.top_k or 0,
            top_p=settings.top_p or 0.0,
            # Without a bound of ours, no scale is beyond it.
            max_pn=settings.max_pn if settings.max_pn is not None else 10**6,
            used_llamagen_cfg=settings.cfg_style == "constant",
            invalid_ids=torch.tensor(settings.invalid_ids, device=self.device) if settings.invalid_ids else None,
        )
        return images.add(1).mul(0.5)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        # Its codes are indexed without a module, so the draws themselves are noted.
        module = import_from(self.root, self.module)
        self._drawn, original = {}, module.sample_with_top_k_top_p_

        def drawn(*args: Any, **kwargs: Any) -> Tensor:
            ids_Bln: Tensor = original(*args, **kwargs)
            self._drawn[len(self._drawn)] = ids_Bln[:, :, 0].clone()
            self.note_cache(self._cached())
            return ids_Bln

        module.sample_with_top_k_top_p_ = drawn
        try:
            yield
        finally:
            module.sample_with_top_k_top_p_ = original


def llama_tokenizer(module: Any, config: Any) -> nn.Module:
    """Build LlamaGen's VQ model; its arguments fix width and depth of the convolutions, others are put in place."""
    tokenizer: nn.Module = module.VQModel(
        module.ModelArgs(
            codebook_size=config.codebook_size,
            codebook_embed_dim=config.codebook_embed_dim,
            codebook_l2_norm=config.codebook_l2_norm,
            commit_loss_beta=config.beta,
            encoder_ch_mult=list(config.encoder_ch_mult),
            decoder_ch_mult=list(config.decoder_ch_mult),
            z_channels=config.z_channels,
        )
    )
    for part, multiples in (("Encoder", config.encoder_ch_mult), ("Decoder", config.decoder_ch_mult)):
        built = getattr(module, part)(
            z_channels=config.z_channels, ch=config.ch, ch_mult=list(multiples), num_res_blocks=config.num_res_blocks
        )
        setattr(tokenizer, part.lower(), built)
    return tokenizer
