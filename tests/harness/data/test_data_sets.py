"""Named data sets: labelled bytes, and references without a file."""

from __future__ import annotations

import pytest
import torch

from arvbench.harness.data import DATA_SETS
from arvbench.harness.quality.reference import load_reference, reference_files, reference_images
from arvbench.harness.quality.reference.make import source_of


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_holds_labelled_bytes(name):
    data_set = DATA_SETS[name]()
    images, labels = data_set.images_N3HW, data_set.labels_N
    assert images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3
    assert labels.dtype == torch.int64 and labels.shape == images.shape[:1] and labels.min() == 0


class TwoSquares:
    """A data set of two images that a newcomer adds."""

    images_N3HW = torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), 255.0)]).to(torch.uint8)
    labels_N = torch.tensor([0, 1])


def test_one_line_of_the_table_makes_a_data_set_a_reference():
    with DATA_SETS.scoped("squares", f"{__name__}:TwoSquares"):
        assert torch.equal(reference_images("squares"), TwoSquares.images_N3HW)
        assert reference_files("squares") == []
        reference = load_reference("squares", [])
        assert (reference.name, reference.images, reference.origin) == ("squares", 2, "data set")
        assert source_of("squares", "bicubic:8").shape == (8, 8)
