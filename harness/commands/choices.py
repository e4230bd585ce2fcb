"""Exact and lossy choices of a user, in words: cache policies, methods, data types. Imports no torch.

Policies declare it in their classes, which import torch; a test compares these lists with them.
"""

from __future__ import annotations

from arvbench.adapters.methods.request import FIRST_OPTIONS, RUNS_ON

EXACT_CACHES = ("grow", "static", "none", "history", "state")
LOSSY_CACHES = ("int8", "fp8", "window", "scalekv", "hack", "linear")
EXACT_DTYPES = ("float32",)
LOSSY_DTYPES = ("bfloat16", "float16")


def exactness_rows() -> list[tuple[str, str]]:
    """Return (choice, text) rows: what keeps the tokens of the official code, and what draws others."""
    return [
        ("caches", f"exact: {', '.join(EXACT_CACHES)}; lossy: {', '.join(LOSSY_CACHES)}"),
        ("methods", f"lossy: {', '.join(FIRST_OPTIONS)} (on {', '.join(RUNS_ON)})"),
        ("dtypes", f"exact: {', '.join(EXACT_DTYPES)}; lossy: {', '.join(LOSSY_DTYPES)}"),
    ]


CACHE_HELP = f"Cache policy: exact ({', '.join(EXACT_CACHES)}) or lossy ({', '.join(LOSSY_CACHES)})."
DTYPE_HELP = "Of the model: float32 is exact, halves are lossy."
METHOD_HELP = "Method, such as skip:2 or code:3,refiner=var-d16 (all lossy)."
