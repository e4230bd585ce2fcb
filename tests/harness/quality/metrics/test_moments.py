"""Moments against NumPy, for any division of the features into blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.metrics.moments import MomentSums, moments_of


def features(count: int = 300, dims: int = 12, *, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    mixing_DD = torch.randn(dims, dims, generator=generator)
    return torch.randn(count, dims, generator=generator) @ mixing_DD + offset


@pytest.mark.parametrize("block", [1, 7, 100, 300])
def test_moments_equal_numpys_in_float64(block):
    features_ND = features()
    moments = moments_of(features_ND.split(block))
    array = features_ND.double().numpy()
    assert moments.count == 300
    np.testing.assert_allclose(moments.mean_D.numpy(), array.mean(axis=0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(moments.cov_DD.numpy(), np.cov(array, rowvar=False), rtol=0, atol=1e-12)


def test_features_far_from_zero_lose_no_digits():
    # Sums of x x^T around zero would leave about 1e-16 * 1e12 = 1e-4 here.
    array = features(offset=1e6).double()
    moments = moments_of(array.split(64))
    np.testing.assert_allclose(moments.cov_DD.numpy(), np.cov(array.numpy(), rowvar=False), rtol=0, atol=1e-9)


def test_same_blocks_give_the_same_bits():
    first, second = (moments_of(features().split(64)) for _ in range(2))
    assert torch.equal(first.mean_D, second.mean_D)
    assert torch.equal(first.cov_DD, second.cov_DD)


def test_half_precision_features_are_summed_in_float64():
    half_ND = features().half()
    moments = moments_of([half_ND])
    assert moments.mean_D.dtype == moments.cov_DD.dtype == torch.float64
    np.testing.assert_allclose(moments.mean_D.numpy(), half_ND.double().mean(dim=0).numpy(), rtol=0, atol=1e-14)


def test_the_fp32_mean_is_the_mean_rounded_and_nothing_else():
    moments = moments_of([features()])
    rounded = moments.with_fp32_mean()
    assert rounded.mean_D.dtype == torch.float64
    assert torch.equal(rounded.mean_D, moments.mean_D.float().double())
    assert not torch.equal(rounded.mean_D, moments.mean_D)
    assert torch.equal(rounded.cov_DD, moments.cov_DD)
    assert rounded.count == moments.count


def test_an_empty_block_changes_nothing():
    features_ND = features()
    with_empty = moments_of([features_ND[:0], features_ND, features_ND[:0]])
    assert torch.equal(with_empty.cov_DD, moments_of([features_ND]).cov_DD)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_covariance(count):
    sums = MomentSums()
    sums.add(features()[:count])
    with pytest.raises(UserError, match=f"at least 2 images, there are {count}"):
        sums.moments()


@pytest.mark.parametrize("shape", [(4, 11), (12,)])
def test_a_block_of_another_shape_is_refused(shape):
    sums = MomentSums()
    sums.add(features())
    with pytest.raises(ContractError, match="block of features"):
        sums.add(torch.zeros(shape))
