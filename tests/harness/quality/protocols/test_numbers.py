"""Metrics of several protocols: their values, intervals, parameters and notes, on made-up features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_inputs import DIMS, features, inputs_of, random_inputs

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.features.sets import FeatureSet, StoredStatistics
from arvbench.harness.quality.metrics.frechet import ReferenceRoot, frechet_distance
from arvbench.harness.quality.metrics.frechet_infinity import frechet_at_infinity
from arvbench.harness.quality.metrics.frechet_spread import bootstrap_frechet, jackknife_frechet
from arvbench.harness.quality.metrics.inception_score import inception_score
from arvbench.harness.quality.metrics.intervals import wilson_interval
from arvbench.harness.quality.metrics.mmd import cmmd
from arvbench.harness.quality.metrics.moments import Moments, moments_of
from arvbench.harness.quality.metrics.neighbours import Distances, density_coverage, precision_recall
from arvbench.harness.quality.protocols import (
    PROTOCOLS,
    Options,
    numbers,
)

NO_INTERVAL = Options(bootstrap=0)
JACKKNIFE = Options()


def test_the_numbers_are_those_of_their_functions():
    inputs = random_inputs("embedding")
    x_ND, y_MD = inputs.samples.features("embedding"), inputs.reference.features("embedding")
    root = ReferenceRoot.of(moments_of([y_MD]))
    fid, infinity = (metric.measure(inputs) for metric in PROTOCOLS["clip-fid"].metrics)
    bootstrap, fit = bootstrap_frechet(x_ND, root, 10, 3), frechet_at_infinity(x_ND, root, numbers.SUBSET_SEED)
    assert fid.value == pytest.approx(frechet_distance(moments_of([x_ND]), root).value, rel=1e-12)
    assert fid.interval == bootstrap.interval
    assert infinity.value == fit.value
    assert infinity.interval == fit.interval(bootstrap.std)
    assert PROTOCOLS["cmmd"].metric("cmmd").measure(inputs).value == cmmd(x_ND, y_MD)

    recall, density = (numbers.prdc(name, inputs, "embedding") for name in ("recall", "density"))
    expected = density_coverage(x_ND, y_MD)
    assert (recall.value, density.value) == (expected.recall, expected.density)
    assert recall.interval == wilson_interval(expected.recall, 180)
    assert density.interval is None


def test_a_distance_carries_its_interval_and_its_rounding():
    number = numbers.frechet(random_inputs(), "pool")
    assert number.value == number.detail["mean_term"] + number.detail["trace_term"]
    assert number.interval[0] < number.value < number.interval[1]
    assert 0 <= number.detail["clamped_mass"] < 1e-12
    assert number.detail["sampling_std"] > 0
    assert (number.detail["interval_method"], number.detail["replicates"]) == ("bootstrap", 10)
    assert number.notes == ()


def test_without_replicates_the_interval_is_the_jackknifes():
    inputs = random_inputs(options=JACKKNIFE)
    number, features_ND = numbers.frechet(inputs, "pool"), inputs.samples.features("pool")
    spread = jackknife_frechet(features_ND, ReferenceRoot.of(inputs.reference.moments("pool")))
    assert (number.interval, number.detail["sampling_std"]) == (spread.interval, spread.std)
    assert number.detail["interval_method"] == "skewed jackknife" and "replicates" not in number.detail
    assert number.interval[0] < number.value < number.interval[1]


def test_no_interval_is_made_when_none_is_wanted():
    inputs = random_inputs(options=NO_INTERVAL)
    fid, infinity = numbers.frechet(inputs, "pool"), numbers.frechet_infinity(inputs, "pool")
    assert fid.interval is infinity.interval is None
    assert "sampling_std" not in fid.detail
    assert numbers.spread(inputs, "pool") is None


def test_the_interval_for_other_libraries_is_the_same():
    number, spread = numbers.frechet(random_inputs(), "pool"), numbers.spread(random_inputs(), "pool")
    assert (spread.interval, spread.std) == (number.interval, number.detail["sampling_std"])


@pytest.mark.parametrize("compute", [numbers.frechet, numbers.frechet_infinity])
def test_options_do_not_change_the_identity_of_a_number(compute):
    one, other = (compute(random_inputs(options=Options(bootstrap=n, seed=n)), "pool") for n in (5, 9))
    assert one.value == other.value
    assert one.parameters == other.parameters
    assert one.interval != other.interval


def test_the_value_with_fp32_means_is_that_of_moments_with_fp32_means():
    inputs = random_inputs(shift=3.0)
    number = numbers.frechet(inputs, "pool")
    x, y = (data.moments("pool").with_fp32_mean() for data in (inputs.samples, inputs.reference))
    assert number.detail["value_with_fp32_means"] == pytest.approx(frechet_distance(x, y).value, rel=1e-13)
    assert number.detail["value_with_fp32_means"] != number.value


@pytest.mark.parametrize(
    ("count", "reference_count", "noted"), [(13, 13, False), (12, 200, True), (200, 12, True), (200, 200, False)]
)
def test_few_images_are_noted_on_either_side(count, reference_count, noted):
    number = numbers.frechet(random_inputs(count=count, reference_count=reference_count), "pool")
    assert number.notes == (
        ("fewer images than 12 feature dimensions: FID is strongly biased upwards",) if noted else ()
    )


def test_published_statistics_that_do_not_say_their_count_are_not_noted():
    """The images that come with statistics are fewer than those the statistics were made from."""
    moments = moments_of([features(200, 2, DIMS)])
    published = Moments(count=None, mean_D=moments.mean_D, cov_DD=moments.cov_DD)
    images = FeatureSet.of({"pool": features(5, 2, DIMS)})
    inputs = replace(random_inputs(), reference=StoredStatistics({"pool": published}, images, name="a file"))
    assert numbers.frechet(inputs, "pool").notes == ()


def test_precision_and_recall_in_both_arithmetics_are_different_numbers():
    inputs = random_inputs()
    precision = numbers.precision(inputs, "pool", k=3, arithmetic="fp16-blocks")
    recall, recall_fp32 = (numbers.recall(inputs, "pool", k=3, arithmetic=a) for a in ("fp16-blocks", "fp32"))
    x_ND, y_MD = inputs.samples.features("pool"), inputs.reference.features("pool")
    assert precision.value == precision_recall(x_ND, y_MD).precision
    assert recall_fp32.value == precision_recall(x_ND, y_MD, distances=Distances("fp32")).recall
    assert precision.interval == wilson_interval(precision.value, 200)
    assert recall.interval == wilson_interval(recall.value, 180)
    assert recall.parameters != recall_fp32.parameters


def test_order_and_seed_of_an_inception_score_are_in_its_identity():
    inputs = replace(random_inputs("logits"), reference=None)
    logits_NC = inputs.samples.features("logits")
    ordered = numbers.inception_score(inputs, "logits")
    shuffled = numbers.inception_score(inputs, "logits", shuffle_seed=7)
    assert ordered.value == inception_score(logits_NC).value
    assert shuffled.value == inception_score(logits_NC, shuffle_seed=7).value
    assert ordered.parameters == {"split_size": 5000, "order": "as given"}
    assert shuffled.parameters == {"split_size": 5000, "order": "shuffled", "shuffle_seed": 7}
    assert ordered.detail["split_values"] == [ordered.value]


@pytest.mark.parametrize("dims", [12, 60])  # more and fewer images per class than dimensions
def test_fid_by_class_is_the_mean_of_the_classes(dims):
    inputs = random_inputs(dims=dims)
    x_ND, y_MD = inputs.samples.features("pool"), inputs.reference.features("pool")
    expected = [frechet_distance(moments_of([x_ND[c::4]]), moments_of([y_MD[c::4]])).value for c in range(4)]
    number = numbers.per_class_frechet(inputs, "pool")
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
    inputs = inputs_of(
        samples_ND, reference_MD, "pool", labels_N=labels, reference_labels_M=labels, options=NO_INTERVAL
    )
    whole = numbers.frechet(inputs, "pool")
    assert numbers.per_class_frechet(inputs, "pool").value > 90 > 2 > whole.value


def test_classes_that_are_missing_or_small_are_left_out_and_named():
    inputs = random_inputs(count=200, reference_count=180)
    labels_N = inputs.labels_N.clone()
    labels_N[labels_N == 3] = 7  # 3 is in the reference only, 7 among the samples only
    labels_N[(labels_N == 2).nonzero()[9:, 0]] = 1  # nine samples of class 2
    labels_N[(labels_N == 0).nonzero()[10:, 0]] = 1  # ten of class 0
    number = numbers.per_class_frechet(replace(inputs, labels_N=labels_N), "pool")
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
def test_fid_by_class_names_missing_labels_and_images(changes, error, says):
    with pytest.raises(error, match=says):
        numbers.per_class_frechet(replace(random_inputs(), **changes), "pool")
