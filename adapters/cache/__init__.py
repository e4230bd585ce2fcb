"""KV-cache policies: the table of names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from arvbench.adapters.cache.base import KVCache

CACHE_POLICIES: Registry[type[KVCache]] = Registry(
    "cache policy",
    {
        "grow": "arvbench.adapters.cache.grow:GrowCache",
        "static": "arvbench.adapters.cache.static:StaticCache",
    },
)
