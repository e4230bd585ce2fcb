"""The demo data: real scans, exact bytes, a split that never moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from arvbench.errors import UnknownName
from arvbench.harness.data.digits import load_digits_rgb, scans_to_rgb
from arvbench.harness.quality.identity import images_sha256


def cubic(t: float) -> float:
    """Keys' kernel with a = -0.75, from its definition."""
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """(target, source) weights of bicubic resizing with half-pixel centres and repeated edges."""
    weights = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[row, min(max(tap, 0), source - 1)] += cubic(centre - tap)
    return weights


def test_images_are_uint8_rgb_of_all_scans_in_order():
    digits = load_digits_rgb()
    assert digits.images_N3HW.shape == (1797, 3, 32, 32)
    assert digits.images_N3HW.dtype == torch.uint8
    assert digits.labels_N.tolist() == load_digits().target.tolist()
    assert torch.equal(digits.images_N3HW[:, 0], digits.images_N3HW[:, 1])
    assert torch.equal(digits.images_N3HW[:, 0], digits.images_N3HW[:, 2])


def test_the_file_is_read_without_an_import_of_scikit_learn_and_equals_what_it_returns(programs, monkeypatch):
    code = (
        "import sys; from arvbench.harness.data.digits import load_digits_rgb; load_digits_rgb(); "
        "print('sklearn' in sys.modules)"
    )
    done = programs.run("-c", code)
    assert done.stdout == "False\n"
    read = load_digits_rgb()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)  # a scikit-learn that keeps the file elsewhere
    returned = load_digits_rgb()
    assert torch.equal(read.images_N3HW, returned.images_N3HW) and torch.equal(read.labels_N, returned.labels_N)


def test_upsampling_is_bicubic_clamped_and_rounded():
    scans = load_digits().images
    up = bicubic_matrix(8, 32)
    expected = np.rint(np.clip(up @ scans @ up.T, 0, 16) * (255 / 16))
    assert np.array_equal(load_digits_rgb().images_N3HW[:, 0].numpy(), expected)


def test_range_of_ink_becomes_range_of_bytes():
    scans = torch.stack([torch.zeros(8, 8), torch.full((8, 8), 16.0)])
    empty, full = scans_to_rgb(scans)
    assert (empty == 0).all()
    assert (full == 255).all()


def test_bytes_are_the_same_on_every_machine():
    expected = "a6a3f04f35465b0e3d1fde843169fd25c221875f5d3f8820d5d86605cc2ca2d2"
    assert images_sha256(load_digits_rgb().images_N3HW) == expected


def test_split_is_disjoint_complete_and_takes_the_last_thirty_of_each_class():
    digits = load_digits_rgb()
    train, held_out = digits.split("train"), digits.split("held-out")
    assert (len(train.labels_N), len(held_out.labels_N)) == (1497, 300)
    assert held_out.labels_N.bincount().tolist() == [30] * 10
    for label in range(10):
        of_class = digits.images_N3HW[digits.labels_N == label]
        assert torch.equal(held_out.images_N3HW[held_out.labels_N == label], of_class[-30:])
        assert torch.equal(train.images_N3HW[train.labels_N == label], of_class[:-30])


def test_unknown_split_is_named():
    with pytest.raises(UnknownName, match="held-out"):
        load_digits_rgb().split("heldout")
