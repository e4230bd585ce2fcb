"""The interface of tokenizers: images to token ids, token ids to code vectors, code vectors to images.

A model of one sequence or map of tokens needs an `IdTokenizer`; a model that draws scale by scale needs a
`ScaleTokenizer`, which also brings the canvas that the scales go onto. A sequence without a map is one line of it.

Shapes   B images, V codebook entries, K code channels, ph pw sides of one scale's token map, h w latent sides (those of
         the last scale), l = ph * pw tokens of one scale, L of all scales
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.common.meta import count_flops, on_meta
from arvbench.adapters.sampling import Noise
from arvbench.errors import UserError
from arvbench.kernels.dispatch import KernelSet

Sides = tuple[tuple[int, int], ...]
"""Height and width of every scale's token map, in the order of generation."""


HALF_DECODE = "bfloat16, channels last"
"""Name of the decoder of `arvbench.adapters.decoding` in records."""
CHANNELS_LAST = "channels last"
"""Name in records of convolutions on maps in that layout."""


class Tokenizer(nn.Module, ABC):
    """Encoder, codebook and decoder. `config` has `vocab_size`, `code_dim` (K) and `downsample` (pixels per token)."""

    config: Any
    training_only: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of tensors that files may hold and only training reads; loading leaves them out."""
    decoding: ClassVar[tuple[str, ...]] = ()
    """Names of the modules with which `decode_map` decodes; none: it runs in the sampler's dtype alone."""

    def adapt_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop tensors that only training reads."""
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(self.training_only)}

    @abstractmethod
    def features(self, images_B3HW: Tensor) -> Tensor:
        """Continuous features (B, K, h, w) fp32 of images in [-1, 1], before quantisation."""

    def finite_features(self, images_B3HW: Tensor) -> Tensor:
        """Return `features`, or raise UserError for NaN and infinity: the code nearest to those is any code."""
        features_BKhw = self.features(images_B3HW)
        if not bool(features_BKhw.isfinite().all()):
            raise UserError(
                "the images cannot be encoded: their features are not finite; check the images, or try bfloat16 or "
                "float32 instead of float16"
            )
        return features_BKhw

    @abstractmethod
    def decode_map(self, map_BKhw: Tensor) -> Tensor:
        """Images (B, 3, H, W), nominally in [-1, 1], of a map of code vectors."""

    def decode_parts(self) -> tuple[nn.Module, ...]:
        """Modules whose weights `decode_map` reads; none when the tokenizer does not tell."""
        return ()

    def decode_flops(self, side: tuple[int, int]) -> int:
        """FLOPs of `decode_map` per map of `side` (height, width); only for a tokenizer on the meta device.

        Here they are counted in a run, for which torch imports its compiler: a formula is worth an override.
        """
        map_1Khw = torch.empty(1, self.config.code_dim, *side, device="meta")
        return count_flops(lambda: self.decode_map(map_1Khw))


def gains_channels_last(tokenizer: nn.Module, device: torch.device) -> bool:
    """True where the convolutions of `tokenizer` take less time on maps with the channels innermost.

    On a CPU in fp32, where oneDNN computes them (docs/performance.md).
    """
    convolution = next((module for module in tokenizer.modules() if isinstance(module, nn.Conv2d)), None)
    return device.type == "cpu" and convolution is not None and convolution.weight.dtype == torch.float32


@cache
def decode_flops(kind: type[Tokenizer], config: Any, side: tuple[int, int]) -> int:
    """FLOPs to decode one map of `side` (height, width) by a tokenizer of class `kind`."""
    return on_meta(lambda: kind(config)).decode_flops(side)


def decode_traffic(tokenizer: nn.Module, values: int) -> tuple[int | None, str | None]:
    """Compulsory bytes of a decode into `values` numbers, with the data type of its weights; None where unknown.

    Weights are read once and the images written once; activations between the layers are not counted.
    """
    parts = tokenizer.decode_parts() if isinstance(tokenizer, Tokenizer) else ()
    weights = [weight for part in parts for weight in part.parameters()]
    if not weights:
        return None, None
    written = values * weights[-1].dtype.itemsize
    return sum(weight.nbytes for weight in weights) + written, str(weights[-1].dtype).removeprefix("torch.")


class IdTokenizer(Tokenizer):
    """A tokenizer of one sequence of ids per image, in raster order where they form a map."""

    quantize: Any
    """The codebook."""

    @abstractmethod
    def encode(self, images_B3HW: Tensor) -> Tensor:
        """Ids (B, l) of images in [-1, 1]."""

    @abstractmethod
    def decode(self, ids_Bl: Tensor, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W), nominally in [-1, 1]; a decoder that draws takes its numbers from `noise`."""


class ScaleTokenizer(Tokenizer):
    """A tokenizer whose tokens come in scales."""

    @abstractmethod
    def encode_scales(self, images_B3HW: Tensor, sides: Sides) -> tuple[Tensor, ...]:
        """Ids (B, l) of every scale."""

    @abstractmethod
    def canvas(self, sides: Sides, batch: int) -> Canvas:
        """An empty canvas for `batch` images."""

    @property
    @abstractmethod
    def codebook_VK(self) -> Tensor:
        """The code vectors, as `Canvas.lookup` returns them."""


class Canvas(ABC):
    """Sum of the scales drawn so far: the seam between the sampling loop and the tokenizer."""

    def __init__(self, sides: Sides) -> None:
        self.sides = sides

    @property
    @abstractmethod
    def state(self) -> Tensor:
        """(B, K, h, w): sum of all scales so far, as `Tokenizer.decode_map` takes it."""

    @abstractmethod
    def lookup(self, ids_Bl: Tensor, scale: int) -> Tensor:
        """Code vectors (B, K, ph, pw) of a scale's ids."""

    @abstractmethod
    def place(self, codes_BKpp: Tensor, scale: int) -> None:
        """Add the code vectors of `scale`."""

    @abstractmethod
    def input(self, scale: int) -> Tensor:
        """(B, l, K): input of the transformer for predicting `scale` (not the first)."""

    def place_ids(self, ids_Bl: Tensor, scale: int, kernels: KernelSet | None = None) -> None:
        """Add the code vectors of a scale's ids, by a kernel where there is one."""
        self.place(self.lookup(ids_Bl, scale), scale)

    def place_tokens(self, tokens: Sequence[Tensor], kernels: KernelSet | None = None) -> Tensor:
        """Place known tokens of all scales; return the inputs of every scale but the first, (B, L - l_first, K)."""
        inputs = []
        for scale, ids_Bl in enumerate(tokens):
            if scale > 0:
                inputs.append(self.input(scale))
            self.place_ids(ids_Bl, scale, kernels)
        return torch.cat(inputs, dim=1)


def area_tokens(map_BKhw: Tensor, side: tuple[int, int]) -> Tensor:
    """(B, l, K): a feature map averaged down to `side`, in raster order."""
    return F.interpolate(map_BKhw, size=side, mode="area").flatten(2).transpose(1, 2)


def check_tokens(tokens: Sequence[Tensor], sides: Sides) -> None:
    """Raise UserError unless `tokens` are (B, l) for every one of `sides`, with equal B."""
    fits = [t.shape == (*tokens[0].shape[:1], h * w) for t, (h, w) in zip(tokens, sides, strict=False)]
    if len(tokens) != len(sides) or not all(fits):
        shapes = ", ".join("x".join(map(str, t.shape)) for t in tokens) or "none"
        scales = ", ".join(f"{h}x{w}" for h, w in sides)
        raise UserError(
            f"tokens per scale (batch x tokens: {shapes}) do not fit the scales {scales}: pass a tensor (B, l) per "
            "scale, and pass the settings they were made with"
        )
