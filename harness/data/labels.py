"""Which class every generated image gets, by a named scheme.

balanced            as many of every class, in order of class: 50 each at 50,000 images of 1,000 classes. The Inception
                    score of adm-v1 depends on this order (VAR, HMAR).
balanced-shuffled   the same labels in an order that the seed decides
uniform             every label drawn on its own, so that classes get different numbers of images (LlamaGen, NAR, PAR:
                    torch.randint; here a hash of seed and image number)

The label of image i follows from the scheme, the total, the number of classes and the seed: never from a batch, a
worker or the version of a random number generator.
"""

from __future__ import annotations

import torch

from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import UnknownName, UserError

BALANCED, SHUFFLED, UNIFORM = "balanced", "balanced-shuffled", "uniform"
LABEL_SCHEMES = (BALANCED, SHUFFLED, UNIFORM)
_SORT_KEYS = 2**53
"""So many different numbers a hash gives: 50,000 of them are equal somewhere with a probability of 1e-7."""


def labels_for(scheme: str, count: int, classes: int, seed: int = 0) -> list[int]:
    """Return `count` labels in 0..classes-1.

    Where `count` is no multiple of `classes`, some classes have one image more than others; these are spread evenly.
    Only "balanced" does not depend on `seed`. Raises UnknownName for another scheme, UserError without images.
    """
    if scheme not in LABEL_SCHEMES:
        raise UnknownName("label scheme", scheme, LABEL_SCHEMES)
    if count < 1 or classes < 1:
        raise UserError(f"there are no labels for {count} images of {classes} classes")
    if scheme == UNIFORM:
        return _drawn(count, classes, seed)
    in_order = [index * classes // count for index in range(count)]
    if scheme == BALANCED:
        return in_order
    order = torch.argsort(torch.tensor(_drawn(count, _SORT_KEYS, seed)), stable=True)
    return [in_order[index] for index in order.tolist()]


def _drawn(count: int, below: int, seed: int) -> list[int]:
    """One number in 0..below-1 per image, a hash of the seed and the image's number."""
    return PerImageNoise(seed, range(count)).labels(count, below).tolist()
