"""Models with wrong arithmetic, for tests of the checks that must refuse them."""

from __future__ import annotations

from dataclasses import replace

from arvbench.adapters.cache.static import StaticCache
from arvbench.adapters.var import DEMO, VarSampler


class ForgetfulCache(StaticCache):
    """Loses the first token of one layer, like a fast cache with a wrong offset."""

    def extend(self, layer, k_RHlD, v_RHlD):
        k, v = super().extend(layer, k_RHlD, v_RHlD)
        if layer != 2 or k.shape[2] == 1:
            return k, v
        return k[:, :, 1:], v[:, :, 1:]


class ForgetfulVar(VarSampler):
    """demo/var with a cache that forgets, under every policy."""

    def make_cache(self, policy, settings, *, batch):
        return ForgetfulCache(super().make_cache("static", settings, batch=batch).shape)


FORGETFUL = replace(DEMO, name="forgetful", sampler=ForgetfulVar, demo=False)
