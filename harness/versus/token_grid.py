"""Official samplers of token-grid models: LlamaGen and NAR.

Shapes   B images, N tokens of an image in raster order
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.token_grid.sampler import TokenGridSampler
from arvbench.harness.versus.next_scale import llama_tokenizer
from arvbench.harness.versus.official import Official, import_from


class OfficialLlamaGen(Official):
    """LlamaGen: `generate`, then `decode_code`, as its sampling script calls them."""

    family: ClassVar = "llamagen"
    autocast: ClassVar = False

    def build(self) -> tuple[nn.Module, nn.Module]:
        config = self.sampler.spec.transformer
        gpt = import_from(self.root, "autoregressive.models.gpt")
        self._generate = import_from(self.root, "autoregressive.models.generate").generate
        transformer: nn.Module = gpt.Transformer(
            gpt.ModelArgs(
                dim=config.dim,
                n_layer=config.n_layer,
                n_head=config.n_head,
                multiple_of=config.multiple_of,
                rope_base=config.rope_base,
                norm_eps=config.norm_eps,
                num_classes=config.num_classes,
                class_dropout_prob=config.class_dropout_prob,
                vocab_size=config.vocab_size,
                block_size=config.block_size,
            )
        )
        tokenizer = llama_tokenizer(
            import_from(self.root, "tokenizer.tokenizer_image.vq_model"), self.sampler.spec.tokenizer
        )
        self._decode = self.observed(cast(Any, tokenizer).decode_code)
        return transformer, tokenizer

    def generate(self, labels_B: Tensor, settings: Any, seed: int) -> Tensor:
        torch.manual_seed(seed)
        grid: int = self.sampler.spec.transformer.grid
        self._ids_BN = self._generate(
            self.transformer,
            labels_B,
            grid * grid,
            cfg_scale=settings.cfg,
            cfg_interval=-1 if settings.cfg_interval is None else settings.cfg_interval,
            temperature=settings.temperature,
            top_k=settings.top_k or 0,
            top_p=1.0 if settings.top_p is None else settings.top_p,
            sample_logits=True,
        )
        if self._recording:
            self.note_cache(self._cached())
        code_dim: int = self.sampler.spec.tokenizer.code_dim
        return self._decode(self._ids_BN, [len(labels_B), code_dim, grid, grid]).add(1).mul(0.5)

    def tokens(self) -> tuple[Tensor, ...]:
        return cast(TokenGridSampler, self.sampler).from_raster(self._ids_BN.long())

    def _cached(self) -> int:
        """Bytes of the caches, which the official code allocates for all tokens at once."""
        caches = [cast(Any, layer).attention.kv_cache for layer in cast(Any, self.transformer).layers]
        return sum(t.numel() * t.element_size() for cache in caches for t in (cache.k_cache, cache.v_cache))


class OfficialNar(OfficialLlamaGen):
    """NAR: LlamaGen's calls on its own transformer."""

    family: ClassVar = "nar"
