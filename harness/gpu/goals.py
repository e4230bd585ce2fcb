"""Goals: a case of ours and the case that it has to beat, by a ratio.

Ratio    peer over ours for times, ours over peer for memory: what the goal's sentence says
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arvbench.results.schema import CaseConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One comparison of two cases that are measured in turns."""

    name: str
    ours: CaseConfig
    peer: CaseConfig
    least: float
    """Ratio of times (peer over ours) that is aimed at."""
    scope: str = "images"
    upstream: str = ""
    """Folder below the given checkouts whose official code is the peer, where it is there."""


def _goal(name: str, model: str, least: float, *, peer: dict[str, Any], upstream: str = "", **case: Any) -> Goal:
    common: dict[str, Any] = {
        "model": model,
        "weights": "random:0",
        "device": "cuda",
        "dtype": "bfloat16",
        "repeats": 5,
        "max_warmup": 6,
        **case,
    }
    ours, other = CaseConfig(**common), CaseConfig(**{**common, **peer})
    return Goal(name=name, ours=ours, peer=other, least=least, upstream=upstream)


_REFERENCE: dict[str, Any] = {"backend": "reference"}

GOALS: tuple[Goal, ...] = (
    _goal("VAR-d16 256 px, latency", "var-d16", 5, peer=_REFERENCE, batch=1, upstream="VAR"),
    _goal("VAR-d30 256 px, throughput", "var-d30", 2, peer=_REFERENCE, batch=64, upstream="VAR"),
    _goal("M-VAR-d16 256 px", "mvar-d16", 3, peer={"cache": "history"}, batch=8),
    _goal(
        "HMAR-d24 1024 px beside its VAR-like mode",
        "hmar-d24-1024",
        1.75,
        peer={"settings": {"kv_cache": True, "mask_schedule": "none"}},
        batch=1,
        settings={"mask_schedule": "none"},
    ),
    _goal("NAR-L, throughput", "nar-l", 2, peer=_REFERENCE, batch=64, upstream="NAR"),
    _goal("LlamaGen-L, throughput", "llamagen-l-256", 3, peer=_REFERENCE, batch=64, upstream="LlamaGen"),
    _goal("VAR-d16 256 px, throughput", "var-d16", 2, peer=_REFERENCE, batch=64, upstream="VAR"),
    _goal("VAR-d20 256 px, throughput", "var-d20", 2, peer=_REFERENCE, batch=64, upstream="VAR"),
    _goal("VAR-d24 256 px, throughput", "var-d24", 2, peer=_REFERENCE, batch=64, upstream="VAR"),
)
"""Most important first."""

_TINY: dict[str, Any] = {"model": "demo/var", "weights": "demo", "repeats": 1, "max_warmup": 1, "threads": 1}

DRY_GOALS: tuple[Goal, ...] = (
    Goal(
        name="demo/var, rehearsal",
        ours=CaseConfig(**_TINY),
        peer=CaseConfig(**_TINY | _REFERENCE),
        least=1,
        upstream="VAR",
    ),
)
"""The same path on a CPU with a tiny model."""
