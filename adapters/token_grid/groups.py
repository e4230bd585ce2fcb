"""The transformer of models that draw single tokens first, and then groups of tokens with one pass each.

A group reads the group before it. The first one has only one token to read, and learnt special tokens complete its
group.

Shapes   R forward rows, l tokens of one pass, L tokens of all passes, C width
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from arvbench.adapters.token_grid.llama import Llama


class GroupedConfig(Protocol):
    """Arguments of the transformer besides those of LlamaGen."""

    @property
    def dim(self) -> int: ...

    @property
    def first_tokens(self) -> int:
        """Tokens drawn one by one before the first group."""
        ...

    @property
    def spe_token_num(self) -> int:
        """Special tokens in the first group's input."""
        ...


class SpecialTokens(nn.Module):
    """Learnt inputs of the first group's pass."""

    def __init__(self, config: GroupedConfig) -> None:
        super().__init__()
        self.special_embeddings = nn.Embedding(config.spe_token_num, config.dim)

    def forward(self, rows: int) -> Tensor:
        return self.special_embeddings.weight.repeat(rows, 1, 1)


class GroupedLlama(Llama):
    """The transformer; state-dict names equal the official files'."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.first = config.first_tokens
        self.spe_tok_embeddings = SpecialTokens(config)

    def step_input(self, tokens_Rl: Tensor, step: int) -> Tensor:
        x_RlC = super().step_input(tokens_Rl, step)
        return torch.cat((x_RlC, self.spe_tok_embeddings(len(x_RlC))), dim=1) if step == self.first else x_RlC

    def sequence_input(self, labels_B: Tensor, tokens_BL: Tensor) -> Tensor:
        before, after = super().sequence_input(labels_B, tokens_BL).tensor_split([1 + self.first], dim=1)
        return torch.cat((before, self.spe_tok_embeddings(len(before)), after), dim=1)
