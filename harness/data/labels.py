"""Class labels of generated images, by a named scheme.

balanced            equally many of every class, in order of class: 50 each at 50,000 images of 1,000 classes. The
                    Inception score of adm-v1 depends on this order (VAR, HMAR).
balanced-shuffled   the labels of balanced, in an order that the seed decides
uniform             independent labels, so that classes differ in size (LlamaGen, NAR, PAR: torch.randint; here a hash
                    of seed and image number)

The label of image i follows from the scheme, the total, the number of classes and the seed, and never from the batch,
the worker or the version of a random number generator.
"""

from __future__ import annotations

import torch

from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import UnknownName, UserError

BALANCED, SHUFFLED, UNIFORM = "balanced", "balanced-shuffled", "uniform"
LABEL_SCHEMES = (BALANCED, SHUFFLED, UNIFORM)
_SORT_KEYS = 2**53
"""Range of the sort keys: 50,000 keys collide with a probability of 1e-7."""


def labels_for(scheme: str, count: int, classes: int, seed: int = 0) -> list[int]:
    """Return `count` labels in 0..classes-1.

    When `count` is not a multiple of `classes`, some classes get one more image; these are spread evenly. "balanced"
    ignores `seed`. Raises UnknownName for another scheme, UserError without images or classes.
    """
    if scheme not in LABEL_SCHEMES:
        raise UnknownName("label scheme", scheme, LABEL_SCHEMES)
    if count < 1 or classes < 1:
        raise UserError(f"there are no labels for {count} images of {classes} classes")
    if scheme == UNIFORM:
        return _hashed(count, classes, seed)
    in_order = [index * classes // count for index in range(count)]
    if scheme == BALANCED:
        return in_order
    order = torch.argsort(torch.tensor(_hashed(count, _SORT_KEYS, seed)), stable=True)
    return [in_order[index] for index in order.tolist()]


def _hashed(count: int, below: int, seed: int) -> list[int]:
    """Return one number in 0..below-1 per image, a hash of the seed and the image's number."""
    return PerImageNoise(seed, range(count)).labels(count, below).tolist()
