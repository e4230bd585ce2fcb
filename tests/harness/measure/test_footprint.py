"""Predicted memory beside the measured one."""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters import PerImageNoise
from arvbench.adapters.loading import load_sampler
from arvbench.errors import UserError
from arvbench.harness.measure.allocations import trace_tensors
from arvbench.harness.measure.footprint import predict
from arvbench.harness.measure.memory import weight_bytes
from arvbench.results.schema import CaseConfig

CASES = [("demo/var", "static", 8), ("demo/mvar", "state", 2), ("demo/par", "grow", 2), ("demo/hmar", "none", 2)]
CASES += [("demo/flexvar", "static", 1), ("demo/par", "linear:0.5", 2), ("demo/var", "int8", 2)]
# Policies and trunks that cases above have too.
MORE = [("demo/var", "grow", 1), ("demo/nar", "static", 2)]


@pytest.mark.parametrize(
    ("name", "policy", "batch"), [*CASES, *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE)]
)
def test_a_prediction_is_within_ten_percent_of_the_measured_tensors(name, policy, batch):
    sampler = load_sampler(name, weights="demo", backend="optimized")
    settings = sampler.spec.settings

    def call(cache, observer) -> None:
        noise = PerImageNoise(0, range(batch))
        sampler.sample([0] * batch, settings, noise=noise, cache=cache, observer=observer)

    peaks = trace_tensors(torch.device("cpu"), lambda: sampler.make_cache(policy, settings, batch=batch), call)
    weights = sum(weight_bytes(module) for module in sampler.modules().values())
    measured = weights + max(peaks.tokens_peak_bytes, peaks.decode_peak_bytes)
    found = predict(CaseConfig(model=name, weights="demo", cache=policy, batch=batch))
    assert found.total_bytes == pytest.approx(measured, rel=0.1)
    assert found.weights_bytes == weights
    assert (found.cache_bytes > 0) == (policy != "none")


def test_hmar_is_predicted_with_a_cache_too():
    settings = {"kv_cache": True, "mask_schedule": "none"}
    assert predict(CaseConfig(model="demo/hmar", weights="demo", settings=settings)).cache_bytes > 0


def test_the_prediction_of_a_method_is_its_own():
    def found(method):
        return predict(CaseConfig(model="demo/var", weights="demo", method=method))

    plain = found(None)
    assert found("skip:2").cache_bytes < plain.cache_bytes
    assert found("code:3,refiner=demo/var").weights_bytes > plain.weights_bytes


def test_a_sampler_that_looks_at_values_is_said_so(monkeypatch):
    monkeypatch.setattr("arvbench.adapters.var.VarSampler.place", lambda self, drawn, *rest: drawn.tokens_Bl.tolist())
    with pytest.raises(UserError, match="demo/var: its sampler looks at values"):
        predict(CaseConfig(model="demo/var", weights="demo"))
