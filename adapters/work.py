"""Work of a sampling call: what its speed-up can come from, whatever the hardware does with it.

Units    tokens per forward row unless a name says rows; head entries: one token's key and value in one head
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from arvbench.adapters.cache.policy import CachePlan, CacheShape


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """One forward pass, layer by layer."""

    rows: int
    new: int
    """Tokens whose input the pass computes."""
    queries: tuple[int, ...]
    """Tokens that each layer computes."""
    reads: tuple[int, ...]
    """Head entries per row that the queries of each layer attend to, their own included."""
    held: tuple[int, ...]
    """Head entries per row that each layer's cache holds after the step."""
    entry_bytes: int
    """Bytes of one cached head entry, all rows."""

    @property
    def cache_bytes(self) -> int:
        """Live bytes of the cache after the step, all layers."""
        return sum(self.held) * self.entry_bytes

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key, over rows, layers and heads."""
        return self.rows * sum(q * r for q, r in zip(self.queries, self.reads, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Totals of one sampling call."""

    forward_passes: int
    tokens_forwarded: int
    """Tokens that enter the transformer, over rows and passes."""
    layer_tokens: int
    """Tokens that a layer computes, over rows, passes and layers."""
    attention_pairs: int
    """Pairs of a query and a key, over rows, passes, layers and heads."""


def total_work(steps: Iterable[StepWork]) -> Work:
    """Add up the work of all steps."""
    listed = list(steps)
    return Work(
        forward_passes=len(listed),
        tokens_forwarded=sum(step.rows * step.new for step in listed),
        layer_tokens=sum(step.rows * sum(step.queries) for step in listed),
        attention_pairs=sum(step.pairs for step in listed),
    )


def planned_work(tokens: Sequence[int], rows: int, heads: int, plan: CachePlan) -> list[StepWork]:
    """Work of passes that compute all of their `tokens` in every layer, under the contents of a cache."""
    steps: list[StepWork] = []
    before: tuple[int, ...] = (0,) * len(plan.entries[0])
    for new, held in zip(tokens, plan.entries, strict=True):
        reads = tuple(entries + new * heads for entries in before)
        queries = (new,) * len(held)
        steps.append(
            StepWork(rows=rows, new=new, queries=queries, reads=reads, held=held, entry_bytes=plan.entry_bytes)
        )
        before = held
    return steps


def recomputed_work(tokens: Sequence[int], shape: CacheShape) -> list[StepWork]:
    """Work of passes without a cache: each computes the `tokens` of all earlier ones again."""
    return [
        StepWork(
            rows=shape.rows,
            new=fed,
            queries=(fed,) * shape.layers,
            reads=(fed * shape.heads,) * shape.layers,
            held=(0,) * shape.layers,
            entry_bytes=shape.entry_bytes,
        )
        for fed in accumulate(tokens)
    ]
