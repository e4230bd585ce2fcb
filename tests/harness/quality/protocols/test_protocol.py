"""Everything follows from the declarations of metrics: names, layers, shared work."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from metric_inputs import random_inputs

from arvbench.errors import UnknownName
from arvbench.harness.quality.extractors.extractor import EXTRACTORS
from arvbench.harness.quality.protocols import (
    PROTOCOLS,
    Metric,
    MetricInputs,
    MetricValue,
)
from arvbench.harness.quality.protocols.protocol import reference_layers


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_known_under_its_name_and_its_metrics_under_theirs(name):
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    assert protocol.extractor in EXTRACTORS
    assert all(protocol.metric(metric.name) is metric for metric in protocol.metrics), "a name stands twice"
    with pytest.raises(UnknownName, match=f"no metric of {name} 'fod'"):
        protocol.metric("fod")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_only_optional_metrics_have_a_reason_to_be_left_out(name):
    for metric in PROTOCOLS[name].metrics:
        assert metric.optional or metric.why_not is None
        assert metric.fewest >= 1


def test_features_of_a_layer_include_its_moments_whichever_protocol_names_it_first():
    fid, coverage = PROTOCOLS["adm-v1"].metric("fid"), PROTOCOLS["prdc"].metric("coverage")
    for uses in ([("net", [fid]), ("net", [coverage])], [("net", [coverage]), ("net", [fid])]):
        assert reference_layers(uses) == {"net": {"pool": "features"}}


def test_work_that_metrics_share_is_done_once():
    calls = []

    def slow(inputs: MetricInputs, layer: str, *, offset: int) -> float:
        calls.append((layer, offset))
        return inputs.samples.count + offset

    def compute(inputs: MetricInputs, layer: str, offset: int) -> MetricValue:
        return MetricValue(value=inputs.once(slow, layer, offset=offset))

    given = random_inputs()
    metrics = [Metric(f"plus-{n}", "pool", compute=partial(compute, offset=n // 2)) for n in range(4)]
    assert [metric.measure(given).value for metric in metrics] == [200, 200, 201, 201]
    assert calls == [("pool", 0), ("pool", 1)]
    metrics[0].measure(replace(given))
    assert len(calls) == 3, "other inputs share nothing"
