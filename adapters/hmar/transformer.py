"""The transformer of HMAR: two predictions with shared first blocks and a shared input embedding.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, C width, V codebook entries, K code channels
Source   HMAR (arXiv:2506.04421); behaviour of NVlabs/HMAR at 595a9df
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.next_scale.blocks import AdaLNBlock, HeadNorm, Mask
from arvbench.adapters.next_scale.transformer import (
    Condition,
    NextScaleConfig,
    NextScaleTransformer,
    block_causal_bias,
    block_diagonal_bias,
    head_logits,
    kernel_scales,
    levels,
)
from arvbench.adapters.tokenizers.tokenizer import Sides
from arvbench.errors import UserError
from arvbench.kernels.dispatch import KernelSet


@dataclass(frozen=True, slots=True, kw_only=True)
class HmarConfig(NextScaleConfig):
    """Constructor arguments of the transformer under their official names; `depth` counts the blocks of one path."""

    n_layers_train: int = 8
    """Last blocks of a path, not shared between next-scale and masked prediction."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_layers_train <= self.depth:
            raise UserError(f"n_layers_train must be in 1..depth ({self.depth}), got {self.n_layers_train}")


class HmarCondition(NamedTuple):
    """Tensors that depend only on the class; the first refinement adds those of masked prediction."""

    start_R1C: Tensor
    blocks: list[Tensor]
    """Modulation of the blocks of next-scale prediction."""
    head_R12C: Tensor
    masked: Condition | None = None


class Hmar(NextScaleTransformer):
    """Two paths through one transformer; state-dict names equal the official files'."""

    config: HmarConfig
    sees_coarser: ClassVar = False

    def add_blocks(self) -> None:
        config = self.config
        # One bias per token, for one or two embedded code vectors.
        self.word_embed = nn.Linear(config.code_dim, config.embed_dim, bias=False)
        self.word_embed_bias = nn.Parameter(torch.empty(config.embed_dim))
        self.mask_embed = nn.Embedding(1, config.embed_dim)
        own = config.n_layers_train
        self.base_blocks = nn.ModuleList(self.block() for _ in range(config.depth - own))
        self.ns_blocks = nn.ModuleList(self.block() for _ in range(own))
        self.mask_blocks = nn.ModuleList(self.block() for _ in range(own))
        self.ns_head_nm, self.mask_head_nm = HeadNorm(config.embed_dim), HeadNorm(config.embed_dim)
        self.ns_head = nn.Linear(config.embed_dim, config.vocab_size)
        self.mask_head = nn.Linear(config.embed_dim, config.vocab_size)

    def position_buffers(self) -> dict[str, Tensor]:
        level_1L = levels(self.config.sides)
        return {"lvl_1L": level_1L, "attn_bias_for_masking": block_diagonal_bias(level_1L)}

    def embed(self, codes_BlK: Tensor) -> Tensor:
        return super().embed(codes_BlK) + self.word_embed_bias

    def embed_masked(self, history_BlK: Tensor, own_BlK: Tensor, masked_Bl: Tensor) -> Tensor:
        """Input (B, l, C) of masked prediction, without position embedding.

        Embeddings of the coarser scales and the scale itself are summed, with `mask_embed` for masked tokens. The
        embedding is linear, so code vectors are added before it.
        """
        masked_Bl1 = masked_Bl.unsqueeze(-1)
        shown_BlC = self.embed(history_BlK + own_BlK.masked_fill(masked_Bl1, 0))
        return shown_BlC + self.mask_embed.weight * masked_Bl1

    def condition(self, labels_R: Tensor) -> HmarCondition:  # type: ignore[override]
        """Compute the condition of next-scale prediction."""
        cond_RC = self.class_emb(labels_R)
        blocks = self._modulation((*self.base_blocks, *self.ns_blocks), cond_RC)
        return HmarCondition(cond_RC.unsqueeze(1) + self.pos_start, blocks, _head_modulation(self.ns_head_nm, cond_RC))

    def with_masked(self, condition: HmarCondition, labels_R: Tensor) -> HmarCondition:
        """Return `condition` with the tensors of masked prediction added."""
        cond_RC = self.class_emb(labels_R)
        blocks = condition.blocks[: len(self.base_blocks)] + self._modulation(self.mask_blocks, cond_RC)
        masked = Condition(condition.start_R1C, blocks, _head_modulation(self.mask_head_nm, cond_RC))
        return condition._replace(masked=masked)

    def _modulation(self, blocks: Iterable[nn.Module], cond_RC: Tensor) -> list[Tensor]:
        shared = self.shared_modulation(cond_RC)
        return [cast(AdaLNBlock, block).modulation(cond_RC, shared) for block in blocks]

    def logits(
        self,
        x_RlC: Tensor,
        condition: HmarCondition,  # type: ignore[override]
        kernels: KernelSet,
        *,
        cache: Cache | None = None,
        mask: Mask | None = None,
    ) -> Tensor:
        """Logits (R, l, V) fp32 of next-scale prediction."""
        blocks = (*self.base_blocks, *self.ns_blocks)
        for layer, (block, modulation) in enumerate(zip(blocks, condition.blocks, strict=True)):
            x_RlC = block(x_RlC, modulation, kernels, layer=layer, cache=cache, mask=mask)
        return head_logits(x_RlC, condition.head_R12C, self.ns_head, kernels, self.config.norm_eps)

    def masked_logits(
        self, x_RlC: Tensor, condition: HmarCondition, kernels: KernelSet, *, mask: Mask | None = None
    ) -> Tensor:
        """Logits (R, l, V) fp32 of masked prediction; `condition` must come from `with_masked`."""
        assert condition.masked is not None
        blocks = (*self.base_blocks, *self.mask_blocks)
        for block, modulation in zip(blocks, condition.masked.blocks, strict=True):
            x_RlC = block(x_RlC, modulation, kernels, mask=mask)
        return head_logits(x_RlC, condition.masked.head_R12C, self.mask_head, kernels, self.config.norm_eps)

    def forward(
        self, labels_B: Tensor, codes_BLK: Tensor, sides: Sides, kernels: KernelSet, *, history: bool = False
    ) -> Tensor:
        """Teacher-forced logits (B, L, V) of next-scale prediction; with `history`, attention as under `kv_cache`."""
        condition = self.condition(labels_B)
        x_BLC = self._sequence(condition, self.embed(codes_BLK), sides)
        if history:
            mask = kernel_scales(kernels, sides, causal=True) or block_causal_bias(self.lvl_1L.cpu()).to(x_BLC)
        else:
            mask = self.training_mask(sides, kernels, x_BLC)
        return self.logits(x_BLC, condition, kernels, mask=mask)

    def masked_forward(
        self,
        labels_B: Tensor,
        history_BLK: Tensor,
        own_BLK: Tensor,
        masked_BL: Tensor,
        sides: Sides,
        kernels: KernelSet,
    ) -> Tensor:
        """Logits (B, L, V) of masked prediction, all scales at once; the codes and the mask omit the first scale."""
        condition = self.with_masked(self.condition(labels_B), labels_B)
        x_BLC = self._sequence(condition, self.embed_masked(history_BLK, own_BLK, masked_BL), sides)
        return self.masked_logits(x_BLC, condition, kernels, mask=self.training_mask(sides, kernels, x_BLC))

    def _sequence(self, condition: HmarCondition, later_BLC: Tensor, sides: Sides) -> Tensor:
        """Return the input (B, L, C) of all scales; the first one contains the class."""
        first = condition.start_R1C.expand(-1, sides[0][0] * sides[0][1], -1)
        return torch.cat((first, later_BLC), dim=1) + self.positions(sides)


def _head_modulation(norm: HeadNorm, cond_RC: Tensor) -> Tensor:
    weight = cast(nn.Linear, norm.ada_lin[1]).weight
    return norm.modulation(cond_RC.to(weight.dtype))
