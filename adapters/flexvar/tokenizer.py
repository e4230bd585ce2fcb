"""FlexVAR's tokenizer: the VQ model of LlamaGen, quantising every scale independently.

Shapes   B images, K code channels, V codebook entries, ph pw sides of one scale's token map, l tokens of one scale
Source   FlexVAR (arXiv:2502.20313) section 3; behaviour of jiaosiyu1999/FlexVAR at 04462cb
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.tokenizers.tokenizer import Canvas, ScaleTokenizer, Sides
from arvbench.adapters.tokenizers.vq import Codebook, VqModel


class FlexVarTokenizer(VqModel, ScaleTokenizer):
    """A VQ model for token maps of any size."""

    def encode_scales(self, images_B3HW: Tensor, sides: Sides) -> tuple[Tensor, ...]:
        """Encode images into ids (B, l) per scale from features averaged to its size; scales are independent."""
        features_BKhw = self.finite_features(images_B3HW)
        return tuple(self.quantize.nearest(F.interpolate(features_BKhw, size=side, mode="area")) for side in sides)

    def canvas(self, sides: Sides, batch: int) -> LastScaleCanvas:
        return LastScaleCanvas(self.quantize, sides)

    @property
    def codebook_VK(self) -> Tensor:
        return self.quantize.codes_VC


class LastScaleCanvas(Canvas):
    """The codes of the last scale drawn, resized for the next one, without accumulation."""

    def __init__(self, quantize: Codebook, sides: Sides) -> None:
        super().__init__(sides)
        self._quantize = quantize

    @property
    def state(self) -> Tensor:
        return self._codes_BKpp

    def lookup(self, ids_Bl: Tensor, scale: int) -> Tensor:
        return self._quantize.lookup(ids_Bl, self.sides[scale])

    def place(self, codes_BKpp: Tensor, scale: int) -> None:
        self._codes_BKpp = codes_BKpp

    def input(self, scale: int) -> Tensor:
        codes_BKpp = F.interpolate(self._codes_BKpp, size=self.sides[scale], mode="bicubic")
        return codes_BKpp.flatten(2).transpose(1, 2)
