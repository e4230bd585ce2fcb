"""Protocols that read one layer: their layers, and the independence of their metrics."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from metric_inputs import random_inputs

from arvbench.errors import ContractError
from arvbench.harness.quality.protocols import (
    PROTOCOLS,
    EvaluationProtocol,
    single_layer,
)
from arvbench.harness.quality.protocols.protocol import OWN_LIBRARY, reference_layers

NAMES = tuple(protocol.name for protocol in vars(single_layer).values() if isinstance(protocol, EvaluationProtocol))


def layer_of(protocol: EvaluationProtocol) -> str:
    """The one layer that a protocol of this file reads."""
    (layer,) = {metric.layer for metric in protocol.metrics}
    return layer


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_reads_of_the_reference_the_layer_that_it_reads_of_the_samples(name):
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    assert all(metric.reads is not None for metric in protocol.metrics)
    assert reference_layers([(name, protocol.metrics)])[name].keys() == {layer_of(protocol)}
    assert reference_layers([(name, ())]) == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_measured_alone_is_the_metric_measured_with_others(name):
    protocol = PROTOCOLS[name]
    inputs = random_inputs(layer_of(protocol))
    for metric in protocol.metrics:
        number = metric.measure(inputs)
        assert np.isfinite(number.value)
        assert number.library == OWN_LIBRARY
        json.dumps([dict(number.parameters), dict(number.detail)], allow_nan=False)
        assert metric.measure(random_inputs(metric.layer)) == number


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_without_its_reference_is_a_bug_of_the_caller(name):
    protocol = PROTOCOLS[name]
    inputs = replace(random_inputs(layer_of(protocol)), reference=None)
    for metric in protocol.metrics:
        with pytest.raises(ContractError, match="without one"):
            metric.measure(inputs)


@pytest.mark.parametrize(
    ("name", "extractor_name", "layer", "need", "fewest"),
    [
        ("clip-fid", "clip-vit-b-32", "embedding", "moments", {"fid": 2, "fid-infinity": 1026}),
        ("fd-dinov2", "dinov2-vit-l-14", "cls", "moments", {"fid": 2, "fid-infinity": 2050}),
        ("cmmd", "clip-vit-l-14-336", "embedding", "features", {"cmmd": 2}),
        ("prdc", "adm-inception", "pool", "features", dict.fromkeys(("precision", "recall", "density", "coverage"), 6)),
        ("per-class-fid", "adm-inception", "pool", "features", {"per-class-fid": 10}),
    ],
)
def test_layers_read_by_a_protocol(name, extractor_name, layer, need, fewest):
    protocol = PROTOCOLS[name]
    assert protocol.extractor == extractor_name
    assert reference_layers([(extractor_name, protocol.metrics)]) == {extractor_name: {layer: need}}
    assert {metric.name: metric.fewest for metric in protocol.metrics} == fewest
