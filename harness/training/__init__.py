"""Training of all shipped weights: the demo models, and the digit classifier of the offline extractor.

`trainings.TRAININGS` has one entry per name of `arvbench train`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with (epochs done, epochs in total, losses of that epoch)."""


class Training(ABC):
    """Entry of the table of trainings."""

    name: str

    @abstractmethod
    def run(
        self, out_dir: Path, *, device: torch.device | str = "cpu", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Train from scratch, write weights and record into `out_dir`, and return the record.

        On the CPU the same settings and library versions give the same weights.
        """
