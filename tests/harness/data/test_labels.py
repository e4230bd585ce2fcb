"""Labels follow from scheme, total and seed; nothing else can change them."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
import torch

from arvbench.errors import UnknownName, UserError
from arvbench.harness.data.labels import LABEL_SCHEMES, labels_for


@pytest.mark.parametrize(("count", "classes"), [(50_000, 1000), (20, 10), (10, 10)])
def test_balanced_is_as_many_of_every_class_in_order(count, classes):
    each = count // classes
    assert labels_for("balanced", count, classes) == [label for label in range(classes) for _ in range(each)]


@pytest.mark.parametrize(("count", "classes"), [(1003, 1000), (10_500, 1000), (7, 10), (1, 10), (13, 4)])
def test_a_remainder_is_spread_evenly(count, classes):
    labels = labels_for("balanced", count, classes)
    assert labels == sorted(labels) and len(labels) == count and set(labels) <= set(range(classes))
    counts = [Counter(labels)[label] for label in range(classes)]
    assert max(counts) - min(counts) == 1
    # No stretch of classes gets more than its share: not all extra images go to the first classes.
    running = [sum(counts[: label + 1]) - (label + 1) * count / classes for label in range(classes)]
    assert max(map(abs, running)) <= 1


def test_shuffled_has_the_same_labels_in_an_order_of_the_seed():
    ordered = labels_for("balanced", 5000, 100)
    shuffled = labels_for("balanced-shuffled", 5000, 100, seed=1)
    assert sorted(shuffled) == ordered != shuffled
    assert shuffled != labels_for("balanced-shuffled", 5000, 100, seed=2)
    # Split by split as mixed as the whole: 60 different classes or more in any 100 images.
    assert all(len(set(shuffled[i : i + 100])) > 50 for i in range(0, 5000, 100))
    assert abs(sum(place * label for place, label in enumerate(shuffled)) / (5000 * 2499.5 * 49.5) - 1) < 0.02


def test_uniform_labels_are_drawn_one_by_one():
    labels = labels_for("uniform", 20_000, 10, seed=3)
    counts = Counter(labels)
    assert set(counts) == set(range(10))
    chi_squared = sum((count - 2000) ** 2 / 2000 for count in counts.values())
    assert 1 < chi_squared < 28  # 9 degrees of freedom: 0.1 % beyond either side, and not suspiciously equal
    # Label i knows nothing of the total, so any worker can make any part.
    for count in (1, 17, 5000):
        assert labels_for("uniform", count, 10, seed=3) == labels[:count]
    assert labels_for("uniform", 100, 10, seed=4) != labels[:100]


@pytest.mark.parametrize("scheme", LABEL_SCHEMES)
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_workers_that_share_the_images_have_the_labels_of_one(scheme, world):
    whole = labels_for(scheme, 103, 10, seed=5)
    parts = []
    for rank in range(world):
        torch.manual_seed(rank)  # whatever state a worker's generator is in
        parts.append(labels_for(scheme, 103, 10, seed=5)[rank::world])
    assert [parts[i % world][i // world] for i in range(103)] == whole


def test_labels_do_not_change_between_versions():
    """Recorded: results name a scheme and a seed, and must keep their meaning."""
    assert labels_for("uniform", 12, 1000, seed=0) == UNIFORM_0
    assert labels_for("balanced-shuffled", 12, 12, seed=0) == SHUFFLED_0

    # 50,000 at once, as one number: the tests above look at a few.
    assert hashlib.sha256(repr(labels_for("uniform", 50_000, 1000, seed=0)).encode()).hexdigest()[:16] == DIGEST_0


UNIFORM_0 = [839, 926, 47, 91, 556, 629, 67, 304, 284, 205, 935, 357]
DIGEST_0 = "61db7b80562d9697"
SHUFFLED_0 = [2, 6, 3, 9, 8, 7, 11, 4, 5, 0, 1, 10]


def test_what_has_no_labels_is_refused():
    with pytest.raises(UnknownName, match="no label scheme 'ballanced'; did you mean 'balanced'"):
        labels_for("ballanced", 10, 10)
    for count, classes in ((0, 10), (-1, 10), (10, 0)):
        with pytest.raises(UserError, match="no labels for"):
            labels_for("balanced", count, classes)
