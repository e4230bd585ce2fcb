"""Cache policies by name. A new policy takes one line here: its class names the kind of memory that it stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from arvbench.adapters.cache.policy import Cache

CACHE_POLICIES: Registry[type[Cache]] = Registry(
    "cache policy",
    {
        "grow": "arvbench.adapters.cache.grow:GrowCache",
        "static": "arvbench.adapters.cache.static:StaticCache",
        "none": "arvbench.adapters.cache.none:NoCache",
        "history": "arvbench.adapters.mvar.history_cache:HistoryCache",
        "state": "arvbench.adapters.mvar.state_cache:StateCache",
        "int8": "arvbench.adapters.cache.quantised:Int8Cache",
        "fp8": "arvbench.adapters.cache.quantised:Fp8Cache",
        "window": "arvbench.adapters.cache.window:WindowCache",
        "scalekv": "arvbench.adapters.cache.scalekv:ScaleKvCache",
        "hack": "arvbench.adapters.cache.hack:HackCache",
        "linear": "arvbench.adapters.cache.linear:LinearCache",
    },
)
