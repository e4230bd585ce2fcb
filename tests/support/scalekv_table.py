"""ScaleKV's published cache memory, from its formula and beside what caches really hold: `python scalekv_table.py`.

The paper's numbers (Table 1, in results of speed.csv as "KV cache memory") are a formula, exact to the MiB: batch 8 in
two guidance halves, keys in float32 and values in bfloat16, and as tokens those cached *before* the last scale. What a
cache holds is counted here by our own policies on Infinity's scales, at a tiny width: tokens do not depend on it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import AttentionInput, CacheShape, KVCache, TokenOrder
from arvbench.adapters.cache.request import read_request

SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
ORDER = TokenOrder(kind="scales", steps=tuple((side, side) for side in SIDES))
MIB = 2**20
ROWS, ENTRY = 16, 4 + 2
"""Batch 8 in two halves; bytes of a channel's key and value."""


class Model(NamedTuple):
    layers: int
    width: int


MODELS = {"Infinity-2B": Model(32, 2048), "Infinity-8B": Model(40, 3584)}
PUBLISHED = {
    ("Infinity-2B", "static"): 38550, ("Infinity-2B", "scalekv:1300"): 7800, ("Infinity-2B", "scalekv:650"): 3900,
    ("Infinity-2B", "scalekv:265"): 1590, ("Infinity-8B", "static"): 84328, ("Infinity-8B", "scalekv:1300"): 17062,
    ("Infinity-8B", "scalekv:650"): 8531, ("Infinity-8B", "scalekv:265"): 3478,
}  # fmt: skip
"""MiB (ScaleKV, Table 1: 100, 20, 10 and 4 %)."""


def mib(model: Model, tokens: int, *, layers: int | None = None) -> float:
    """MiB of `tokens` cached tokens per layer, in all layers or in some."""
    return ROWS * (layers or model.layers) * model.width * tokens * ENTRY / MIB


def formula_tokens(policy: str) -> int:
    """Tokens that the paper counts: the budget, or all those before the last scale."""
    return ORDER.before(len(SIDES) - 1) if policy == "static" else int(policy.partition(":")[2])


class Held(NamedTuple):
    """Tokens of one layer."""

    live: tuple[int, ...]
    """After every scale, by the cache's live bytes."""
    read: int
    """Most that one attention reads: the kept ones and those of the scale."""


def count(policy: str) -> Held:
    """Run a cache of one layer over Infinity's scales and count what it holds."""
    name, options = read_request(policy)
    shape = CacheShape(
        layers=1, rows=1, heads=1, head_dim=2, capacity_tokens=sum(ORDER.tokens), dtype=torch.float32,
        device=torch.device("cpu"), order=ORDER,
    )  # fmt: skip
    cache, noise = CACHE_POLICIES[name].make(shape, options), torch.Generator().manual_seed(0)
    assert isinstance(cache, KVCache)
    live, read = [0], 0
    for tokens in ORDER.tokens:
        q, k, v = torch.randn(3, 1, 1, tokens, 2, generator=noise)
        read = max(read, live[-1] + tokens)
        cache.attend(0, AttentionInput(q, k, v, projected=lambda q=q: q))
        live.append(cache.live_bytes() // shape.bytes_of(1))
    return Held(tuple(live[1:]), read)


def table() -> str:
    """Markdown: published, formula, and what is live."""
    lines = [
        "| model | policy | published | by the formula | live before the last scale | live after it | "
        "one layer's attention reads |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, policy), published in PUBLISHED.items():
        model, held = MODELS[name], count(policy)
        sizes = (mib(model, formula_tokens(policy)), mib(model, held.live[-2]), mib(model, held.live[-1]))
        cells = [f"{size:,.0f}" for size in (published, *sizes)]
        lines.append(f"| {name} | `{policy}` | {' | '.join(cells)} | {mib(model, held.read, layers=1):,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
