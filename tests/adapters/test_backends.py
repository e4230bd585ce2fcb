"""A backend is a line in the table: every family runs with it, on the defaults that its entry implies."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters.loading import load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.kernels.backends import BACKENDS, Backend


def draw(sampler):
    return sampler.sample([1], sampler.spec.settings.replace(cfg=0), noise=PerImageNoise(0, [0]))


@pytest.mark.parametrize(("official", "cache", "rows"), [(True, "history", 2), (False, "state", 1)])
def test_a_new_line_in_the_table_is_a_backend_of_every_family(monkeypatch, official, cache, rows):
    monkeypatch.setitem(BACKENDS, "new", Backend(cuda="torch", elsewhere="torch", official=official))
    sampler = load_sampler("demo/mvar", weights="random:0", backend="new")
    settings = sampler.spec.settings.replace(cfg=0)
    assert sampler.make_cache(None, settings, batch=1).policy == cache
    assert {step.rows for step in sampler.schedule(settings, batch=1)} == {rows}
    reference = load_sampler("demo/mvar", weights="random:0", backend="reference")
    assert torch.equal(draw(sampler).images, draw(reference).images)
