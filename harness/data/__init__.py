"""Built-in reference data sets, and the labels of generated images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from arvbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class DataSet(Protocol):
    """Labelled images, in the order of the data set."""

    @property
    def images_N3HW(self) -> Tensor:
        """(N, 3, H, W) uint8."""
        ...

    @property
    def labels_N(self) -> Tensor:
        """(N,) int64."""
        ...


DATA_SETS: Registry[Callable[[], DataSet]] = Registry(
    "data set",
    {
        "digits": "arvbench.harness.data.digits:load_digits_rgb",
    },
)
"""Name of a reference -> function that loads the data set, without a download."""
