"""Analytic cost of one step of the adaLN transformer; a multiply-add counts as two FLOPs.

The count includes all matrix products and excludes normalisation, softmax, modulation and sampling.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Sizes that determine the cost. AdaLN projections run once per call and count towards the first step."""

    depth: int
    width: int
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
