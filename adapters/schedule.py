"""Plan of a sampling call: its steps and their cost, known before it runs.

Units    flops: a multiply-add counts as two; bytes: 1 byte
Rows     sequences in one forward pass: one per image, two with classifier-free guidance (CFG)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TOGETHER = ("masked", "pivots")
"""Kinds of which steps in a row complete one group of tokens, in random order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One forward pass of the transformer: `new_tokens` attend to `context_tokens` (themselves included)."""

    index: int
    kind: str
    """"scale" (all tokens of one resolution), "mask" (some of them again), "wavefront" (an anti-diagonal), "token",
    "cell" (a part of the map), "masked" (tokens of the map in random order), "pivots" (those of a coarse map), or
    "parallel" (one token of every region, or a group of successive ones).
    """
    side: tuple[int, int] | None
    """Height and width of the token map in this step; None for tokens that form no map."""
    new_tokens: int
    context_tokens: int
    cached_tokens: int
    """Tokens in the cache after this step (M-VAR: tokens that the state or history covers); 0 without a cache."""
    rows: int
    inner_passes: int = 1
    """Evaluations of the network that draws or denoises the step's tokens, one after another: more than one where a
    solver denoises latents. FLOPs, launches and bytes are those of all.
    """
    flops: int
    """Matrix products of the transformer, all rows; normalisation, softmax and sampling are not counted."""
    fp32_flops: int = 0
    """Of `flops`, those that run in float32 whatever the model's data type is: the output head of some families."""
    launches: int = 0
    """Kernels that wait for each other, at least: the longest chain of matrix products, attentions and scans, each one
    kernel, and the draw. All other work can be a part of one of them. 0 for a family that does not state it.
    """
    bytes_moved: int
    """Compulsory traffic: weights and cache read once per inner pass, cache and logits written once."""
    cache_bytes: int
    """Live bytes of the cache after this step, all layers: keys and values, or M-VAR's state or history."""

    @property
    def name(self) -> str:
        """The label used in records and reports, such as "scale 16x16", or "token" without a map."""
        return self.kind if self.side is None else f"{self.kind} {self.side[0]}x{self.side[1]}"

    @property
    def map_side(self) -> tuple[int, int]:
        """`side` of a step whose tokens form a map."""
        assert self.side is not None, "the tokens of this family form no map"
        return self.side


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All steps of one sampling call, in order, and the decode after them."""

    steps: tuple[Step, ...]
    images: int
    decode_flops: int
    """Convolutions and matrix products of the tokenizer's decoder, all images."""
    decode_bytes: int | None = None
    """Compulsory traffic of the decode: weights read once, images written once; None for a tokenizer without parts."""
    decode_dtype: str | None = None
    """Data type of the decoder's weights, such as "float32"; None as for `decode_bytes`."""

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def groups(self) -> list[list[Step]]:
        """Group the steps: every pass that begins a group of tokens, with the passes that refine or complete it."""
        groups: list[list[Step]] = []
        for step in self.steps:
            if step.kind == "mask" or (groups and step.kind in TOGETHER and step.kind == groups[-1][-1].kind):
                groups[-1].append(step)
            else:
                groups.append([step])
        return groups

    @property
    def flops(self) -> int:
        """Transformer FLOPs of the whole call, all rows."""
        return sum(step.flops for step in self.steps)

    @property
    def rows(self) -> int:
        """Most rows of a step."""
        return max(step.rows for step in self.steps)

    @property
    def peak_cache_bytes(self) -> int:
        """Largest live bytes of the cache after any step."""
        return max(step.cache_bytes for step in self.steps)
