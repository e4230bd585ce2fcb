"""Analytic cost of one step of the adaLN transformer; a multiply-add counts as two FLOPs.

The count includes all matrix products and excludes normalisation, softmax, modulation and sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arvbench.adapters.next_scale.transformer import NextScaleConfig
from arvbench.adapters.work import StepWork


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Sizes that determine the cost. AdaLN projections run once per call and count towards the first step."""

    depth: int
    width: int
    head_dim: int
    hidden: int
    vocab_size: int
    code_dim: int
    shared_aln: bool
    itemsize: int
    """Bytes of one weight; the head is always fp32."""

    def flops(self, *, rows: int, images: int, new: int, context: int, first: bool) -> int:
        """FLOPs of `new` tokens per row, attending to `context` tokens; codes are embedded once per image."""
        linear = self.depth * (8 * self.width**2 + 4 * self.width * self.hidden) + 2 * self.width * self.vocab_size
        attention = self.depth * 4 * context * self.width
        total = rows * new * (linear + attention)
        if first:
            return total + rows * 2 * self.width * self._adaln_outputs
        return total + images * new * 2 * self.code_dim * self.width

    def fp32_flops(self, *, rows: int, logits: int, first: bool) -> int:
        """FLOPs of the output head for `logits` tokens per row; the first step computes its modulation."""
        return rows * 2 * self.width * (logits * self.vocab_size + (2 * self.width if first else 0))

    @property
    def launches(self) -> int:
        """Kernels of a step that wait for each other: embedding or modulation, five in a block, head and draw."""
        return self._block_launches * self.depth + 3

    @property
    def _block_launches(self) -> int:
        """Projection in, attention, projection out, and two of the feed-forward."""
        return 5

    def beyond_the_mean(self, work: StepWork, context: int) -> int:
        """FLOPs of `work` beyond those of `flops` for all new tokens at `context`; 0 where all layers do the same."""
        heads = self.width // self.head_dim
        pairs = work.pairs - work.rows * self.depth * work.new * context * heads
        layer_tokens = work.rows * (sum(work.queries) - self.depth * work.new)
        return 4 * self.head_dim * pairs + layer_tokens * (8 * self.width**2 + 4 * self.width * self.hidden)

    def entry_flops(self, *, rows: int, images: int, embedded: int, headless: int) -> int:
        """FLOPs that a first pass over several scales has beyond `flops`.

        It embeds `embedded` codes per image, and has no logits for `headless` of its tokens.
        """
        return 2 * self.width * (images * embedded * self.code_dim - rows * headless * self.vocab_size)

    def weight_bytes(self, *, first: bool) -> int:
        """Bytes of the weights that a step reads once."""
        block = self.width * (4 * self.width + 2 * self.hidden) + 5 * self.width + self.hidden
        total = self.depth * block * self.itemsize + 4 * (self.width + 1) * self.vocab_size
        if first:
            head = 2 * self.width
            blocks = self._adaln_outputs - head
            return total + (self.width + 1) * (blocks * self.itemsize + 4 * head)
        return total + (self.code_dim + 1) * self.width * self.itemsize

    @property
    def _adaln_outputs(self) -> int:
        """Output columns of all adaLN projections: six vectors per block (or in total, if shared), two for the head."""
        return (6 * (1 if self.shared_aln else self.depth) + 2) * self.width


def step_cost(config: NextScaleConfig, dtype: torch.dtype) -> StepCost:
    """Cost of the steps of a transformer with weights of `dtype`."""
    return StepCost(
        depth=config.depth,
        width=config.embed_dim,
        head_dim=config.embed_dim // config.num_heads,
        hidden=config.hidden,
        vocab_size=config.vocab_size,
        code_dim=config.code_dim,
        shared_aln=config.shared_aln,
        itemsize=dtype.itemsize,
    )
