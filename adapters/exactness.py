"""Exact or lossy: what of a case draws other tokens on purpose.

Every cache policy declares it (`Cache.lossy`), every method is lossy (it changes the schedule), and of the dtypes
float32 alone is exact: half precisions round weights, activations and logits.
"""

from __future__ import annotations

from collections.abc import Mapping

from arvbench.adapters.cache.request import is_lossy
from arvbench.adapters.sampler import ModelSpec

LOSSY_DTYPES: Mapping[str, bool] = {"float32": False, "bfloat16": True, "float16": True}


def lossy_parts(spec: ModelSpec, *, cache: str | None, dtype: str) -> tuple[str, ...]:
    """Name what of a case is lossy; empty for an exact one."""
    parts = []
    if spec.plain is not None:
        parts.append(f"method {spec.family}")
    if is_lossy(cache):
        parts.append(f"cache {cache}")
    if LOSSY_DTYPES[dtype]:
        parts.append(f"dtype {dtype}")
    return tuple(parts)
