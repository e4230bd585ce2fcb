"""The transformer of next-scale models: embeddings, one stack of adaLN blocks, a head.

A family overrides the parts in which it differs: positions, blocks, masks.

Shapes   B images, R forward rows (conditional, then unconditional), l tokens of one scale, L of all scales, C width,
         V codebook entries, K code channels
Source   VAR (arXiv:2404.02905) section 3.3; behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.next_scale.blocks import AdaLNBlock, HeadNorm, Mask
from arvbench.adapters.tokenizers.tokenizer import Sides
from arvbench.kernels.block_sparse_attention.reference import Scales
from arvbench.kernels.dispatch import KernelSet

PATCH_NUMS_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextScaleConfig:
    """Constructor arguments of the transformer under their official names."""

    depth: int
    embed_dim: int
    num_heads: int
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    shared_aln: bool = False
    attn_l2_norm: bool = True
    cond_drop_rate: float = 0.1
    patch_nums: tuple[int, ...] = PATCH_NUMS_256
    vocab_size: int = 4096
    code_dim: int = 32
    """Channels of the tokenizer's code vectors."""

    @property
    def sides(self) -> Sides:
        """Height and width of every scale's token map."""
        return tuple((pn, pn) for pn in self.patch_nums)

    @property
    def tokens(self) -> int:
        """L: tokens of all scales."""
        return sum(pn * pn for pn in self.patch_nums)

    @property
    def hidden(self) -> int:
        return round(self.embed_dim * self.mlp_ratio)


DEMO_SIZES: dict[str, Any] = {"num_classes": 10, "patch_nums": (1, 2, 3, 4, 6, 8), "vocab_size": 256, "code_dim": 16}
"""Arguments shared by the demo models of all families: 32 px in six scales, 130 tokens."""


class Condition(NamedTuple):
    """Tensors that depend only on the class, computed once per sampling call."""

    start_R1C: Tensor
    """Input of the first scale, without position embedding."""
    blocks: list[Tensor]
    """Modulation of every block, (R, 1, 6, C)."""
    head_R12C: Tensor


class NextScaleTransformer(nn.Module):
    """Embeddings, one stack of blocks and a head; state-dict names equal the official files'."""

    pos_1LC: nn.Parameter
    lvl_1L: Tensor
    attn_bias_for_masking: Tensor | None
    sees_coarser: ClassVar[bool] = True
    """True when tokens of a teacher-forced pass see all scales up to their own, False for their own alone."""

    def __init__(self, config: NextScaleConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.word_embed = nn.Linear(config.code_dim, width)
        self.class_emb = nn.Embedding(config.num_classes + 1, width)
        self.pos_start = nn.Parameter(torch.empty(1, 1, width))
        self.add_positions()
        if config.shared_aln:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.add_blocks()
        for name, buffer in self.position_buffers().items():
            self.register_buffer(name, buffer)

    def add_positions(self) -> None:
        """Add the parameters of `positions`: one embedding per token and one per scale."""
        config = self.config
        self.pos_1LC = nn.Parameter(torch.empty(1, config.tokens, config.embed_dim))
        self.lvl_embed = nn.Embedding(len(config.patch_nums), config.embed_dim)

    def add_blocks(self) -> None:
        """Add the blocks and the head."""
        self.blocks = nn.ModuleList(self.block() for _ in range(self.config.depth))
        self.head_nm = HeadNorm(self.config.embed_dim)
        self.head = nn.Linear(self.config.embed_dim, self.config.vocab_size)

    def block(self) -> nn.Module:
        """Build one block."""
        config = self.config
        return AdaLNBlock(
            config.embed_dim,
            config.num_heads,
            config.hidden,
            l2_norm=config.attn_l2_norm,
            shared_aln=config.shared_aln,
            norm_eps=config.norm_eps,
        )

    def position_buffers(self) -> dict[str, Tensor]:
        """Buffers that depend on the scales: the scale index of every token and the training mask."""
        level_1L = levels(self.config.sides)
        return {"lvl_1L": level_1L, "attn_bias_for_masking": block_causal_bias(level_1L)}

    def constant_buffers(self) -> dict[str, Tensor]:
        """Buffers derived from the configuration; official files contain them too."""
        zero_key_bias = torch.zeros(self.config.embed_dim)
        names = [name for name, _ in self.named_buffers() if name.endswith("zero_k_bias")]
        return self.position_buffers() | dict.fromkeys(names, zero_key_bias)

    def positions(self, sides: Sides) -> Tensor:
        """Return the position embeddings (1, L, C), which are added to the tokens."""
        positions_1LC: Tensor = self.lvl_embed(self.lvl_1L) + self.pos_1LC
        return positions_1LC

    def embed(self, codes_BlK: Tensor) -> Tensor:
        """Embed the canvas input of a later scale as (B, l, C), without position embedding."""
        x_BlC: Tensor = self.word_embed(codes_BlK.to(self.pos_start.dtype))
        return x_BlC

    def shared_modulation(self, cond_RC: Tensor) -> Tensor | None:
        """Modulation (R, 1, 6, C) shared by all blocks; None without shared adaLN."""
        return self.shared_ada_lin(cond_RC).view(len(cond_RC), 1, 6, -1) if self.config.shared_aln else None

    def condition(self, labels_R: Tensor) -> Condition:
        """Compute the class conditioning."""
        cond_RC = self.class_emb(labels_R)
        start_R1C = cond_RC.unsqueeze(1) + self.pos_start
        shared = self.shared_modulation(cond_RC)
        blocks = [cast(AdaLNBlock, block).modulation(cond_RC, shared) for block in self.blocks]
        head_R12C = self.head_nm.modulation(cond_RC.to(self.head.weight.dtype))
        return Condition(start_R1C, blocks, head_R12C)

    def logits(
        self,
        x_RlC: Tensor,
        condition: Condition,
        kernels: KernelSet,
        *,
        cache: Cache | None = None,
        mask: Mask | None = None,
    ) -> Tensor:
        """Logits (R, l, V) fp32; tokens attend to the cache (None: to each other under `mask`)."""
        for layer, (block, modulation) in enumerate(zip(self.blocks, condition.blocks, strict=True)):
            x_RlC = block(x_RlC, modulation, kernels, layer=layer, cache=cache, mask=mask)
        return head_logits(x_RlC, condition.head_R12C, self.head, kernels, self.config.norm_eps)

    def forward(self, labels_B: Tensor, codes_BLK: Tensor, sides: Sides, kernels: KernelSet) -> Tensor:
        """Teacher-forced logits (B, L, V): one pass under the training mask.

        `codes_BLK` (B, L - l_first, K) are the canvas inputs of every scale but the first.
        """
        condition = self.condition(labels_B)
        first = condition.start_R1C.expand(-1, sides[0][0] * sides[0][1], -1)
        x_BLC = torch.cat((first, self.embed(codes_BLK)), dim=1) + self.positions(sides)
        return self.logits(x_BLC, condition, kernels, mask=self.training_mask(sides, kernels, x_BLC))

    def training_mask(self, sides: Sides, kernels: KernelSet, like: Tensor) -> Mask:
        """Mask of the teacher-forced pass; a bias has the dtype and device of `like`."""
        return kernel_scales(kernels, sides, causal=self.sees_coarser) or self.training_bias(sides).to(like)

    def training_bias(self, sides: Sides) -> Tensor:
        """Additive mask (1, 1, L, L) of the teacher-forced pass."""
        kept = self.attn_bias_for_masking
        return self.position_buffers()["attn_bias_for_masking"] if kept is None else kept

    def drop_mask(self) -> None:
        """Keep no (L, L) mask: a kernel needs none, and other passes make their own. State dicts still hold it."""
        self.attn_bias_for_masking = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.attn_bias_for_masking is None:
            destination[f"{prefix}attn_bias_for_masking"] = self.position_buffers()["attn_bias_for_masking"]


def kernel_scales(kernels: KernelSet, sides: Sides, *, causal: bool) -> Scales | None:
    """Scales of a teacher-forced pass, for a kernel without a mask; None where `kernels` has no such kernel."""
    if kernels.names["block_sparse_attention"] == "torch":
        return None
    return Scales((0, *accumulate(h * w for h, w in sides)), causal=causal)


def head_logits(x_RlC: Tensor, head_R12C: Tensor, head: nn.Linear, kernels: KernelSet, norm_eps: float) -> Tensor:
    """Logits (R, l, V) fp32 from the modulated norm and the projection."""
    scale, shift = head_R12C.unbind(2)
    logits_RlV: Tensor = head(kernels.adaln_modulate(x_RlC.to(head.weight.dtype), scale, shift, norm_eps)).float()
    return logits_RlV


def levels(sides: Sides) -> Tensor:
    """Scale index of every token, (1, L) int64."""
    return torch.tensor([[scale for scale, (h, w) in enumerate(sides) for _ in range(h * w)]])


def block_causal_bias(level_1L: Tensor) -> Tensor:
    """Mask (1, 1, L, L): 0 at scales up to the token's own, -inf at finer ones."""
    return _bias(level_1L, hides=torch.lt)


def block_diagonal_bias(level_1L: Tensor) -> Tensor:
    """Mask (1, 1, L, L): 0 inside the token's own scale, -inf elsewhere."""
    return _bias(level_1L, hides=torch.ne)


def _bias(level_1L: Tensor, hides: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mask (1, 1, L, L): -inf where `hides(query's scale, key's scale)`; no values on the meta device."""
    tokens = level_1L.shape[1]
    bias_LL = torch.zeros(tokens, tokens, device=level_1L.device)
    if not level_1L.is_meta:  # a comparison there would import torch's compiler
        bias_LL.masked_fill_(hides(level_1L.transpose(0, 1), level_1L), -torch.inf)
    return bias_LL[None, None]
