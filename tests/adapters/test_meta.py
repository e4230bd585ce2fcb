"""Modules without memory: nothing is initialised but what other threads make meanwhile."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from arvbench.adapters.common.meta import on_meta

LAYERS = {
    "linear": lambda: nn.Linear(3, 3),
    "convolution": lambda: nn.Conv2d(3, 3, 1),
    "embedding": lambda: nn.Embedding(3, 3),
    "norm": lambda: nn.LayerNorm(3),
    "norm without weights": lambda: nn.GroupNorm(1, 3, affine=False),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_without_values_is_not_initialised(make, monkeypatch):
    kind = type(make())
    initialised = []
    monkeypatch.setattr(kind, "reset_parameters", lambda layer: initialised.append(layer))
    on_meta(make)
    inner, outer = on_meta(lambda: (on_meta(make), make()))
    assert all(parameter.is_meta for layer in (inner, outer) for parameter in layer.parameters())
    assert len(initialised) == (0 if list(outer.parameters()) else 3)
    again = make()
    assert initialised[-1] is again, "afterwards it is as before"


def test_a_layer_that_another_thread_makes_meanwhile_is_initialised():
    made = []

    def build():
        thread = threading.Thread(target=lambda: made.extend([nn.Linear(3, 3), nn.Conv2d(3, 3, 1)]))
        thread.start()
        thread.join()
        return nn.Linear(3, 3)

    torch.manual_seed(0)
    expected = [nn.Linear(3, 3), nn.Conv2d(3, 3, 1)]
    torch.manual_seed(0)
    assert on_meta(build).weight.is_meta
    assert all(torch.equal(ours.weight, theirs.weight) for ours, theirs in zip(made, expected, strict=True))
    assert "reset_parameters" in vars(nn.Linear) and "reset_parameters" not in vars(nn.Conv2d)
