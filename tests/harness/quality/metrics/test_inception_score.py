"""Inception score against its formula, torch-fidelity, and scores that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.metrics.inception_score import inception_score


def logits(count: int = 700, classes: int = 20, seed: int = 3) -> Tensor:
    return 2 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def by_formula(logits_NC: Tensor, split_size: int) -> list[float]:
    """exp(mean KL) of every split, in float64."""
    values = logits_NC.double().numpy()
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    scores = []
    for start in range(0, len(probabilities), split_size):
        part = probabilities[start : start + split_size]
        kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(float(np.exp(kl.sum(axis=1).mean())))
    return scores


def one_hot(labels: list[int], classes: int = 10, certainty: float = 30.0) -> Tensor:
    return certainty * torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


@pytest.mark.parametrize("split_size", [100, 300, 700, 5000])
def test_score_equals_the_formula_with_a_short_last_split(split_size):
    result = inception_score(logits(), split_size)
    expected = by_formula(logits(), split_size)
    assert result.split_values == pytest.approx(expected, rel=1e-6)
    assert result.value == pytest.approx(np.mean(expected), rel=1e-6)
    assert result.std == (pytest.approx(np.std(expected), rel=1e-4) if len(expected) > 1 else None)


def test_splits_hold_5000_images():
    logits_NC = logits(count=11_000, classes=5)
    result = inception_score(logits_NC)
    assert result.split_values == pytest.approx(by_formula(logits_NC, 5000), rel=1e-6)
    assert len(result.split_values) == 3


def test_one_unshuffled_split_equals_torch_fidelitys():
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    theirs = isc_features_to_metric(logits(), splits=1, shuffle=False)[KEY_METRIC_ISC_MEAN]
    assert inception_score(logits()).value == pytest.approx(theirs, rel=1e-6)


def test_even_splits_equal_torch_fidelitys():
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    theirs = isc_features_to_metric(logits(), splits=7, shuffle=False)
    result = inception_score(logits(), 100)
    assert result.value == pytest.approx(theirs[KEY_METRIC_ISC_MEAN], rel=1e-6)
    assert result.std == pytest.approx(theirs[KEY_METRIC_ISC_STD], rel=1e-4)


def test_certain_and_even_classes_score_their_number():
    assert inception_score(one_hot(list(range(10)) * 5)).value == pytest.approx(10, rel=1e-6)


def test_equal_images_score_one():
    assert inception_score(logits(1).expand(50, -1)).value == pytest.approx(1, rel=1e-6)


def test_order_by_class_collapses_the_score_and_shuffling_restores_it():
    """Ten classes, 50 images each: in order every split of 50 holds one class, shuffled it holds nearly all."""
    in_order_NC = one_hot([label for label in range(10) for _ in range(50)])
    assert inception_score(in_order_NC, 50).value == pytest.approx(1, rel=1e-6)
    assert inception_score(in_order_NC, 100).value == pytest.approx(2, rel=1e-6)
    assert 8 < inception_score(in_order_NC, 50, shuffle_seed=0).value < 10
    assert inception_score(in_order_NC, 500).value == pytest.approx(10, rel=1e-6)


def test_shuffling_is_that_of_its_seed():
    logits_NC = logits()
    assert inception_score(logits_NC, 100, shuffle_seed=1) == inception_score(logits_NC, 100, shuffle_seed=1)
    assert inception_score(logits_NC, 100, shuffle_seed=1) != inception_score(logits_NC, 100, shuffle_seed=2)
    assert inception_score(logits_NC, 100, shuffle_seed=1) != inception_score(logits_NC, 100)


def test_a_probability_of_zero_counts_as_zero():
    # exp(-200) is 0 in fp32, for class 9 in every image, so its marginal is 0 too.
    score = inception_score(one_hot([0, 1, 2] * 4, certainty=200.0))
    assert score.value == pytest.approx(3, rel=1e-6)


def test_the_softmax_is_in_fp32_and_the_rest_in_float64():
    logits_NC = logits()
    probabilities = logits_NC.softmax(dim=1).double().numpy()
    kl = probabilities * (np.log(probabilities) - np.log(probabilities.mean(axis=0)))
    result = inception_score(logits_NC).value
    assert result == pytest.approx(np.exp(kl.sum(axis=1).mean()), rel=1e-13)
    assert result != pytest.approx(by_formula(logits_NC, 5000)[0], rel=1e-11)


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (torch.zeros(0, 5), UserError, "at least 1 image"),
        (torch.tensor([[0.0, 1], [torch.nan, 0], [torch.inf, 0]]), UserError, "2 of 3 images are NaN"),
        (torch.zeros(5), ContractError, "fp32"),
        (torch.zeros(5, 5).double(), ContractError, "fp32"),
    ],
)
def test_unusable_logits_are_refused(bad, error, says):
    with pytest.raises(error, match=says):
        inception_score(bad)


def test_an_empty_split_is_refused():
    with pytest.raises(UserError, match="at least 1 image, not 0"):
        inception_score(logits(), 0)
