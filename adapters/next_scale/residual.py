"""Next-scale models on the multi-scale residual VQ-VAE: VAR, M-VAR and HMAR.

Shapes   B images, K code channels, ph pw sides of one scale's token map, h w latent sides, L tokens of all scales
Source   VAR (arXiv:2404.02905) section 3.2
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor

from arvbench.adapters.common.meta import count_flops, on_meta
from arvbench.adapters.next_scale.canvas import Canvas, Sides, area_tokens, check_tokens
from arvbench.adapters.next_scale.sampler import NextScaleSampler
from arvbench.adapters.pixels import to_unit_range
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.tokenizers.multiscale_vq import VqVae, VqVaeConfig


class ResidualCanvas(Canvas):
    """Sum of all scales at the last resolution (f_hat), area-resized for the next one; VAR, M-VAR, HMAR."""

    def __init__(self, tokenizer: VqVae, sides: Sides, batch: int) -> None:
        super().__init__(sides)
        self._tokenizer = tokenizer
        device = tokenizer.quantize.embedding.weight.device
        self._f_hat = torch.zeros(batch, tokenizer.config.z_channels, *sides[-1], device=device)

    @property
    def state(self) -> Tensor:
        return self._f_hat

    def lookup(self, ids_Bl: Tensor, scale: int) -> Tensor:
        return self._tokenizer.quantize.lookup(ids_Bl, self.sides[scale])

    def place(self, codes_BKpp: Tensor, scale: int) -> None:
        self._f_hat = self._f_hat + self.contribution(codes_BKpp, scale)

    def contribution(self, codes_BKpp: Tensor, scale: int) -> Tensor:
        """(B, K, h, w): what the code vectors of `scale` add."""
        return self._tokenizer.quantize.contribution(codes_BKpp, scale, len(self.sides), self.sides[-1])

    def input(self, scale: int) -> Tensor:
        return area_tokens(self._f_hat, self.sides[scale])

    def decode(self) -> Tensor:
        return to_unit_range(self._tokenizer.decode_f_hat(self._f_hat))


class ResidualSampler(NextScaleSampler):
    """What follows from the tokenizer: canvas, encoding, decoding, teacher forcing."""

    @property
    def tokenizer(self) -> VqVae:
        return cast(VqVae, self._modules["tokenizer"])

    def new_canvas(self, sides: Sides, batch: int) -> Canvas:
        return ResidualCanvas(self.tokenizer, sides, batch)

    def decode_flops_per_image(self, side: tuple[int, int]) -> int:
        return _decode_flops(self.spec.tokenizer, side)

    @torch.no_grad()
    def encode(self, images: Tensor, *, settings: SamplingSettings | None = None) -> tuple[Tensor, ...]:
        return self.tokenizer.encode(images.to(self.device))

    @torch.no_grad()
    def decode(self, tokens: Sequence[Tensor], *, settings: SamplingSettings | None = None) -> Tensor:
        check_tokens(tokens, self.sides(settings or self.spec.settings))
        return to_unit_range(self.tokenizer.decode(tokens))

    def forced_input(self, tokens: Sequence[Tensor], sides: Sides) -> Tensor:
        check_tokens(tokens, sides)
        return self.tokenizer.quantize.teacher_forcing_input(tokens)


@cache
def _decode_flops(config: VqVaeConfig, side: tuple[int, int]) -> int:
    twin = on_meta(lambda: VqVae(config))
    f_hat = torch.empty(1, config.z_channels, *side, device="meta")
    return count_flops(lambda: twin.decode_f_hat(f_hat))


DEMO_TOKENIZER = VqVaeConfig(
    vocab_size=256, z_channels=16, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, v_patch_nums=(1, 2, 3, 4, 6, 8)
)
"""Of the demo models of these families: 32 px in six scales, 130 tokens."""
