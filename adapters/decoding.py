"""Decoding in bfloat16 and channels last: a second copy of a tokenizer's decoder, used where a check allows it.

A sampler decodes as its tokenizer does until `decode_in_half`; who measures it compares the images first
(arvbench.harness.measure.decoding).

Shapes   B images, K code channels, h w latent sides
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.tokenizers.tokenizer import HALF_DECODE as HALF_DECODE
from arvbench.adapters.tokenizers.tokenizer import Tokenizer
from arvbench.errors import ContractError

if TYPE_CHECKING:
    from arvbench.adapters.sampler import Sampler


class HalfDecoder(nn.Module):
    """A tokenizer that decodes in bfloat16 and channels last; everything else is that of the original."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Copy the modules that `tokenizer.decoding` names. Raises ContractError where it names none."""
        super().__init__()
        if not tokenizer.decoding:
            raise ContractError(f"{type(tokenizer).__name__} does not name the modules that decode")
        self.copies = nn.ModuleDict(
            {name: copy.deepcopy(cast(nn.Module, tokenizer._modules[name])) for name in tokenizer.decoding}
        ).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        copied = copy.copy(tokenizer)
        copied._modules = {**tokenizer._modules, **self.copies._modules}
        # Not a submodule, for it holds the modules of the original too. Its methods decode by the `decode_map` here.
        self.__dict__["_tokenizer"], self.__dict__["_decode"] = copied, copied.decode_map
        copied.decode_map = self.decode_map  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_tokenizer"], name)

    def decode_map(self, map_BKhw: Tensor) -> Tensor:
        """Images (B, 3, H, W) fp32 of a map of code vectors, in the range of the tokenizer's own."""
        half_BKhw = map_BKhw.to(torch.bfloat16, memory_format=torch.channels_last)
        decoded: Tensor = self.__dict__["_decode"](half_BKhw)
        return decoded.to(torch.float32, memory_format=torch.contiguous_format)


def decode_in_half(sampler: Sampler, used: bool = True) -> None:
    """Decode the images of calls by a `HalfDecoder`, or again as the tokenizer; recorded calls are forgotten.

    Raises ContractError for a tokenizer that does not name its decoder.
    """
    decoder = None
    if used:
        tokenizer = HalfDecoder(cast(Tokenizer, sampler.modules()["tokenizer"]))
        # For `decode_state` alone, which is the family's.
        decoder = copy.copy(sampler)
        decoder._modules = {**sampler.modules(), "tokenizer": tokenizer}
    sampler.half_decoder = decoder
    if sampler.graphs:
        sampler.graphs.forget()
