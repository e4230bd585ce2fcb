"""Labels and seeds as data sets, NumPy and torch give them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arvbench.adapters import PerImageNoise, UpstreamNoise, load_sampler
from arvbench.errors import UserError


@pytest.fixture(scope="module")
def sampler():
    return load_sampler("demo/nar", weights="random:0")


KINDS = (np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_integer_type_are_the_same_labels(sampler, kind):
    assert sampler.check_labels(np.array([2, 9], dtype=kind)).tolist() == [2, 9]
    assert sampler.check_labels([kind(2), kind(9)]).tolist() == [2, 9]
    assert sampler.check_labels(torch.from_numpy(np.array([2, 9], dtype=kind))).tolist() == [2, 9]


@pytest.mark.parametrize(
    "labels",
    [
        [True, False],
        [True, 3],
        np.array([True, False]),
        torch.tensor([1.0]),
        ["3"],
        None,
        [None],
        [2**63],
        [10**30],
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([10], dtype=np.uint16),
        torch.tensor([1j]),
        torch.tensor([1, 2]).to_sparse(),
        torch.zeros(2, dtype=torch.int64, device="meta"),
        [[1, 2], [3]],
        object(),
    ],
)
def test_other_labels_are_one_line(sampler, labels):
    with pytest.raises(UserError, match="label") as caught:
        sampler.check_labels(labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [np.int64(7), np.uint8(7), np.uint64(7), torch.tensor(7)])
def test_any_whole_number_is_a_seed(seed):
    logits = torch.zeros(2, 3, 50)
    for make in (lambda s: PerImageNoise(s, [0, 1]), UpstreamNoise):
        assert torch.equal(make(seed).tokens(logits, 0), make(7).tokens(logits, 0))


@pytest.mark.parametrize("seed", [1.5, "0", None, True, np.float32(1), [1]])
def test_other_seeds_are_one_line(seed):
    for make in (lambda s: PerImageNoise(s, [0, 1]), UpstreamNoise, lambda s: PerImageNoise(0, [s])):
        with pytest.raises(UserError, match="is no whole number"):
            make(seed)


def test_a_seed_beyond_torchs_range_is_named():
    with pytest.raises(UserError, match="out of range"):
        UpstreamNoise(2**64)
