"""No cache: attention sees the tokens of its own step only, as in Markov models (HMAR)."""

from __future__ import annotations

from torch import Tensor

from arvbench.adapters.cache.policy import NO_SLOTS, CacheSlots, KVCache


class NoCache(KVCache):
    """Stores nothing, so every step has an empty context."""

    policy = "none"
    in_place = True
    memory = "nothing"

    def extend(self, layer: int, k_RHlD: Tensor, v_RHlD: Tensor) -> tuple[Tensor, Tensor]:
        return k_RHlD, v_RHlD

    def slots(self, layer: int, tokens: int) -> CacheSlots:
        return NO_SLOTS

    def live_bytes(self) -> int:
        return 0

    def allocated_bytes(self) -> int:
        return 0

    def reset(self) -> None:
        """Do nothing: nothing is stored."""
