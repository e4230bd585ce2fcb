"""Model families behind one sampling interface.

    from arvbench.adapters import load_sampler
    sampler = load_sampler("var-d16", weights="path/to/folder", backend="optimized")
    samples = sampler.sample([207, 980], sampler.spec.settings, noise=PerImageNoise(0, [0, 1]))

`MODELS` lists the known models without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arvbench.adapters.registry import MODELS

if TYPE_CHECKING:
    from arvbench.adapters.loading import load_sampler
    from arvbench.adapters.sampling import PerImageNoise, UpstreamNoise

__all__ = ["MODELS", "PerImageNoise", "UpstreamNoise", "load_sampler"]

_LAZY = {
    "load_sampler": "arvbench.adapters.loading",
    "PerImageNoise": "arvbench.adapters.sampling",
    "UpstreamNoise": "arvbench.adapters.sampling",
}


def __getattr__(name: str) -> Any:
    """Import torch on the first use of a name that needs it (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
