"""Choice of a decoder: the one in bfloat16 is taken where its images agree with the tokenizer's own.

The rule is that of the check of correctness: the mean absolute difference of every image is within the tolerance of the
sampler's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arvbench.adapters.decoding import HALF_DECODE, decode_in_half
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import ContractError
from arvbench.harness.measure.correctness import (
    CHECK_IMAGES,
    CHECK_SEED,
    TOLERANCES,
    Tolerance,
    image_difference,
    spread_labels,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeChoice:
    """Decoder that a sampler was given."""

    used: str
    """For the record: the name of the decoder, or why it is the tokenizer's own."""
    image_diff: float | None
    """Largest mean absolute difference of an image between the two; None where there is one only."""


@torch.no_grad()
def choose_decoder(
    sampler: Sampler, settings: SamplingSettings, *, batch: int, tolerance: Tolerance | None = None
) -> DecodeChoice:
    """Decode the same tokens twice, and let `sampler` decode in bfloat16 from now on where that is allowed."""
    tolerance, own = tolerance or TOLERANCES[sampler.dtype], f"as the tokenizer, in {_decoder_dtype(sampler)}"
    labels = spread_labels(min(batch, CHECK_IMAGES), sampler.spec.num_classes)
    settings = settings.replayable()
    decode_in_half(sampler, used=False)
    tokens = sampler.sample(labels, settings, noise=PerImageNoise(CHECK_SEED, range(len(labels)))).tokens
    state = sampler.state_of(tokens, settings)
    try:
        decode_in_half(sampler)
    except ContractError as error:
        return DecodeChoice(used=f"{own}: {error}", image_diff=None)
    assert sampler.half_decoder is not None
    difference = image_difference(sampler.decode_state(state), sampler.half_decoder.decode_state(state))
    if difference <= tolerance.images:  # not for a NaN
        return DecodeChoice(used=HALF_DECODE, image_diff=difference)
    decode_in_half(sampler, used=False)
    reason = f"{HALF_DECODE} differs by {difference:.2g}, {tolerance.images:g} is allowed"
    return DecodeChoice(used=f"{own}: {reason}", image_diff=difference)


def _decoder_dtype(sampler: Sampler) -> str:
    tokenizer = sampler.modules()["tokenizer"]
    dtypes = {str(p.dtype).removeprefix("torch.") for n, p in tokenizer.named_parameters() if n.startswith("decoder")}
    return " and ".join(sorted(dtypes)) or "its own dtype"
