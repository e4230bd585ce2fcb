"""Protocols that need nothing but features: what they read, which numbers they give, what those say of themselves."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.sets import FeatureSet, StoredStatistics
from arvbench.harness.quality.metrics.frechet import (
    ReferenceRoot,
    bootstrap_frechet,
    frechet_at_infinity,
    frechet_distance,
)
from arvbench.harness.quality.metrics.inception_score import inception_score
from arvbench.harness.quality.metrics.mmd import cmmd
from arvbench.harness.quality.metrics.moments import Moments, moments_of
from arvbench.harness.quality.metrics.neighbours import density_coverage, precision_recall, wilson_interval
from arvbench.harness.quality.protocols import PROTOCOLS, EvaluationProtocol, MetricInputs, Options
from arvbench.harness.quality.protocols.numbers import (
    LIBRARY,
    SUBSET_SEED,
    frechet_interval,
    frechet_numbers,
    inception_score_number,
    per_class_number,
    prdc_numbers,
    precision_recall_numbers,
)

NAMES = ("clip-fid", "fd-dinov2", "cmmd", "prdc", "prdc-dinov2", "per-class-fid")
DIMS = 12
QUICK = Options(bootstrap=10, seed=3)


def features(count: int, seed: int, dims: int = DIMS, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)) + shift


def extractor(layer: str, dims: int) -> Extractor:
    return Extractor(
        name="made-up",
        network=lambda images: {},
        layers={layer: dims},
        device=torch.device("cpu"),
        sha256=hashlib.sha256(b"").hexdigest(),
        preprocessing="none",
    )


def compared(
    layer: str = "pool", *, count: int = 200, reference_count: int = 180, dims: int = DIMS, shift: float = 0.3
) -> MetricInputs:
    """Samples and reference of four classes in turn."""
    x_ND, y_MD = features(count, 1, dims, shift), features(reference_count, 2, dims)
    return MetricInputs(
        samples=FeatureSet.of({layer: x_ND}),
        reference=FeatureSet.of({layer: y_MD}),
        extractor=extractor(layer, dims),
        labels_N=torch.arange(count) % 4,
        reference_labels_M=torch.arange(reference_count) % 4,
    )


def without(given: MetricInputs, **changes) -> MetricInputs:
    values = {name: getattr(given, name) for name in MetricInputs.__slots__}
    return MetricInputs(**(values | changes))


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_is_complete(name):
    protocol: EvaluationProtocol = PROTOCOLS[name]
    assert protocol.name == name
    metrics = list(protocol.metrics)
    assert protocol.reference_metrics <= set(metrics)
    assert set(protocol.reference_layers(metrics)) == protocol.layers(metrics)
    assert protocol.layers([]) == frozenset()
    assert protocol.reference_layers([]) == {}


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_measured_in_order_and_only_those_asked_for(name):
    protocol: EvaluationProtocol = PROTOCOLS[name]
    (layer,) = protocol.layers(list(protocol.metrics))
    given = compared(layer)
    numbers = protocol.measure(list(protocol.metrics), given, QUICK)
    assert [number.metric for number in numbers] == list(protocol.metrics)
    for number in numbers:
        assert np.isfinite(number.value)
        assert number.layer == layer
        assert number.library == LIBRARY
        assert number.uses_reference
        json.dumps([dict(number.parameters), dict(number.detail)], allow_nan=False)
        assert protocol.measure([number.metric], given, QUICK) == [number]
    assert protocol.measure([], given, QUICK) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_without_its_reference_is_a_bug_of_the_caller(name):
    protocol: EvaluationProtocol = PROTOCOLS[name]
    (layer,) = protocol.layers(list(protocol.metrics))
    with pytest.raises(ContractError, match="without one"):
        protocol.measure(list(protocol.metrics), without(compared(layer), reference=None), QUICK)


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
def test_what_a_protocol_reads(name, extractor_name, layer, need, fewest):
    protocol: EvaluationProtocol = PROTOCOLS[name]
    assert protocol.extractor == extractor_name
    assert protocol.reference_layers(list(protocol.metrics)) == {layer: need}
    assert dict(protocol.metrics) == fewest


def test_the_numbers_are_those_of_their_functions():
    given = compared("embedding")
    x_ND, y_MD = given.samples.features("embedding"), given.reference.features("embedding")
    root = ReferenceRoot.of(moments_of([y_MD]))
    fid, infinity = PROTOCOLS["clip-fid"].measure(["fid", "fid-infinity"], given, QUICK)
    bootstrap, fit = bootstrap_frechet(x_ND, root, 10, 3), frechet_at_infinity(x_ND, root, SUBSET_SEED)
    assert fid.value == pytest.approx(frechet_distance(moments_of([x_ND]), root).value, rel=1e-12)
    assert fid.interval == bootstrap.interval
    assert infinity.value == fit.value
    assert infinity.interval == fit.interval(bootstrap.std)
    assert PROTOCOLS["cmmd"].measure(["cmmd"], given, QUICK)[0].value == cmmd(x_ND, y_MD)

    prdc = {number.metric: number for number in prdc_numbers(("density", "recall"), given, "embedding")}
    expected = density_coverage(x_ND, y_MD)
    assert list(prdc) == ["recall", "density"]
    assert (prdc["recall"].value, prdc["density"].value) == (expected.recall, expected.density)
    assert prdc["recall"].interval == wilson_interval(expected.recall, 180)
    assert prdc["density"].interval is None


def test_a_distance_carries_its_interval_and_its_rounding():
    (number,) = frechet_numbers(["sfid"], compared(), "pool", QUICK, distance="sfid")
    assert number.metric == "sfid"
    assert number.value == number.detail["mean_term"] + number.detail["trace_term"]
    assert number.interval[0] < number.value < number.interval[1]
    assert 0 <= number.detail["clamped_mass"] < 1e-12
    assert number.detail["bootstrap_std"] > 0
    assert number.notes == ()


def test_no_bootstrap_no_interval():
    fid, infinity = frechet_numbers(["fid", "fid-infinity"], compared(), "pool", Options(bootstrap=0))
    assert fid.interval is infinity.interval is None
    assert "bootstrap_std" not in fid.detail
    assert frechet_interval(compared(), "pool", Options(bootstrap=0)) == (None, None)


def test_the_interval_for_other_libraries_is_the_same():
    (number,) = frechet_numbers(["fid"], compared(), "pool", QUICK)
    assert frechet_interval(compared(), "pool", QUICK) == (number.interval, number.detail["bootstrap_std"])


def test_options_do_not_change_what_a_number_is():
    for metric in ("fid", "fid-infinity"):
        one, other = (frechet_numbers([metric], compared(), "pool", Options(bootstrap=n, seed=n))[0] for n in (5, 9))
        assert one.value == other.value
        assert one.parameters == other.parameters
        assert one.interval != other.interval


def test_the_value_with_fp32_means_is_that_of_moments_with_fp32_means():
    given = compared(shift=3.0)
    (number,) = frechet_numbers(["fid"], given, "pool", QUICK)
    x, y = (data.moments("pool").with_fp32_mean() for data in (given.samples, given.reference))
    assert number.detail["value_with_fp32_means"] == pytest.approx(frechet_distance(x, y).value, rel=1e-13)
    assert number.detail["value_with_fp32_means"] != number.value


@pytest.mark.parametrize(
    ("count", "reference_count", "noted"), [(13, 13, False), (12, 200, True), (200, 12, True), (200, 200, False)]
)
def test_few_images_are_noted_on_either_side(count, reference_count, noted):
    given = compared(count=count, reference_count=reference_count)
    (number,) = frechet_numbers(["fid"], given, "pool", QUICK)
    assert number.notes == (
        ("fewer images than 12 feature dimensions: FID is strongly biased upwards",) if noted else ()
    )


def test_published_statistics_that_do_not_say_their_count_are_not_noted():
    """The images that come with statistics are fewer than those the statistics were made from."""
    moments = moments_of([features(200, 2)])
    published = Moments(count=None, mean_D=moments.mean_D, cov_DD=moments.cov_DD)
    images = FeatureSet.of({"pool": features(5, 2)})
    given = without(compared(), reference=StoredStatistics({"pool": published}, [images], what="a file"))
    (number,) = frechet_numbers(["fid"], given, "pool", QUICK)
    assert number.notes == ()


def test_precision_and_recall_in_both_arithmetics_are_different_numbers():
    given = compared()
    emulated = precision_recall_numbers(["precision", "recall"], given, "pool", arithmetic="fp16-blocks")
    plain = precision_recall_numbers(["recall-fp32"], given, "pool", arithmetic="fp32", suffix="-fp32")
    assert [number.metric for number in (*emulated, *plain)] == ["precision", "recall", "recall-fp32"]
    x_ND, y_MD = given.samples.features("pool"), given.reference.features("pool")
    assert emulated[0].value == precision_recall(x_ND, y_MD).precision
    assert plain[0].value == precision_recall(x_ND, y_MD, arithmetic="fp32").recall
    assert emulated[0].interval == wilson_interval(emulated[0].value, 200)
    assert emulated[1].interval == wilson_interval(emulated[1].value, 180)
    assert emulated[1].parameters != plain[0].parameters
    assert precision_recall_numbers(["fid"], given, "pool", arithmetic="fp32") == []


def test_order_and_seed_of_an_inception_score_are_in_its_identity():
    given = without(compared("logits"), reference=None)
    logits_NC = given.samples.features("logits")
    ordered = inception_score_number(given, "logits")
    shuffled = inception_score_number(given, "logits", metric="is-shuffled", shuffled=7)
    assert ordered.value == inception_score(logits_NC).value
    assert shuffled.value == inception_score(logits_NC, shuffled=7).value
    assert not ordered.uses_reference
    assert ordered.parameters == {"split_size": 5000, "order": "as given"}
    assert shuffled.parameters == {"split_size": 5000, "order": "shuffled", "shuffle_seed": 7}
    assert ordered.detail["split_values"] == [ordered.value]


@pytest.mark.parametrize("dims", [12, 60])  # more and fewer images per class than dimensions
def test_fid_by_class_is_the_mean_of_the_classes(dims):
    given = compared(dims=dims)
    x_ND, y_MD = given.samples.features("pool"), given.reference.features("pool")
    expected = [frechet_distance(moments_of([x_ND[c::4]]), moments_of([y_MD[c::4]])).value for c in range(4)]
    number = per_class_number(given, "pool")
    assert number.value == pytest.approx(np.mean(expected), rel=1e-6)
    classes = number.detail["classes"]
    assert list(classes) == ["0", "1", "2", "3"]
    assert [values["fid"] for values in classes.values()] == pytest.approx(expected, rel=1e-6)
    assert (classes["1"]["samples"], classes["1"]["reference"]) == (50, 45)
    assert any("strongly biased" in note for note in number.notes) == (dims == 60)


def test_swapped_classes_are_seen_by_class_and_not_by_the_whole():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    reference_MD = torch.randn(200, 4, generator=generator) + 5 * labels[:, None]
    samples_ND = torch.randn(200, 4, generator=generator) + 5 * (1 - labels[:, None])
    given = MetricInputs(
        samples=FeatureSet.of({"pool": samples_ND}),
        reference=FeatureSet.of({"pool": reference_MD}),
        extractor=extractor("pool", 4),
        labels_N=labels,
        reference_labels_M=labels,
    )
    (whole,) = frechet_numbers(["fid"], given, "pool", QUICK)
    assert per_class_number(given, "pool").value > 90 > 2 > whole.value


def test_classes_that_are_missing_or_small_are_left_out_and_named():
    given = compared(count=200, reference_count=180)
    labels_N = given.labels_N.clone()
    labels_N[labels_N == 3] = 7  # 3 is in the reference only, 7 among the samples only
    labels_N[(labels_N == 2).nonzero()[9:, 0]] = 1  # nine samples of class 2
    labels_N[(labels_N == 0).nonzero()[10:, 0]] = 1  # ten of class 0
    number = per_class_number(without(given, labels_N=labels_N), "pool")
    assert list(number.detail["classes"]) == ["0", "1"]
    assert number.detail["classes"]["0"]["samples"] == 10
    assert number.detail["classes_left_out"] == ["2", "3", "7"]
    assert number.notes[-1:] == ("3 of 5 classes have fewer than 10 images on a side and are left out: 2, 3, 7",)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"labels_N": None}, UserError, "those of the samples are not known"),
        ({"reference_labels_M": None}, UserError, "those of the reference are not known"),
        ({"labels_N": torch.zeros(3, dtype=torch.int64)}, ContractError, r"labels \(3,\) for 200 images"),
        ({"labels_N": torch.full((200,), 9)}, UserError, "none of the 5 classes has them"),
    ],
)
def test_fid_by_class_says_what_it_lacks(changes, error, says):
    with pytest.raises(error, match=says):
        per_class_number(without(compared(), **changes), "pool")
