"""Trunk of the families with a cache: two runs of conditioned blocks over the same tokens, in generation order.

Shapes   R forward rows, n groups of tokens with a condition each, l new tokens, L tokens of all steps, C width
Names    modules have the names of the official state dicts
Source   behaviour of OliverRensu/xAR at 121e9c9, wangqiang9/FlowAR at 5745a96
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from arvbench.adapters.latents.blocks import Attending, ConditionedBlock, RmsNorm, block_causal


class ConditionedTrunk(nn.Module):
    """Computations of both families; each builds its modules, in the order of the official file."""

    encoder_pos_embed_learned: nn.Parameter
    """(1, L, C)."""
    z_proj_ln: RmsNorm
    encoder_blocks: nn.ModuleList
    encoder_norm: RmsNorm
    decoder_embed: nn.Linear
    decoder_pos_embed_learned: nn.Parameter
    """(1, L, C)."""
    decoder_blocks: nn.ModuleList
    decoder_norm: RmsNorm

    @property
    def first_attention(self) -> nn.Module:
        """Attention of the first block; all have equal rotary buffers."""
        block = self.encoder_blocks[0] if len(self.encoder_blocks) else self.decoder_blocks[0]
        return cast(ConditionedBlock, block).attn

    def trunk(self, x_RlC: Tensor, condition_RnC: Tensor, start: int, how: Attending) -> Tensor:
        """Normed output (R, l, C) of the blocks for embedded tokens, the numbers `start` and after of the image."""
        here = slice(start, start + x_RlC.shape[1])
        x_RlC = self.z_proj_ln(x_RlC + self.encoder_pos_embed_learned[:, here])
        for layer, block in enumerate(cast(Iterable[ConditionedBlock], self.encoder_blocks)):
            x_RlC = block(x_RlC, condition_RnC, how, layer)
        x_RlC = self.decoder_embed(self.encoder_norm(x_RlC)) + self.decoder_pos_embed_learned[:, here]
        for layer, block in enumerate(cast(Iterable[ConditionedBlock], self.decoder_blocks), len(self.encoder_blocks)):
            x_RlC = block(x_RlC, condition_RnC, how, layer)
        out_RlC: Tensor = self.decoder_norm(x_RlC)
        return out_RlC


def causal_mask(sizes: Sequence[int]) -> Tensor:
    """(1, 1, L, L) fp32 over groups of tokens: 0 where one may attend, else -inf; a buffer of the official files."""
    allowed_LL = block_causal(sizes)
    return torch.zeros(allowed_LL.shape).masked_fill(~allowed_LL, -torch.inf)[None, None]
