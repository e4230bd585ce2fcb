"""Records of measurements: schema, reader, statistics, and published sampling recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(path: Path | str) -> DataFrame:
    """Read a run folder or a records file as a data frame, one row per record (results/frames.py)."""
    from arvbench.results.frames import frame as read

    return read(path)
