"""The recorded run of the demo models, which `arvbench reproduce` rehearses with: numbers, and a smoke image of each.

The file is made by `python tests/support/demo_runs.py` from the run behind the table of README.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arvbench.errors import UserError, complaint
from arvbench.paths import printable, regular_file

DEMO_RUNS: Final = Path(__file__).with_name("demo_runs.json")
_MOST_BYTES = 2**20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DemoNumber(_Frozen):
    """A recorded number."""

    value: float
    interval: tuple[float, float] | None
    protocol_id: str
    tolerance: float = Field(gt=0)
    """Absolute difference that rounding on another processor may make, with equal weights, noise and protocol."""


class DemoRun(_Frozen):
    """Recorded numbers of one model."""

    images: int
    weights_sha256: dict[str, str]
    numbers: dict[str, DemoNumber]
    smoke_png: str
    """The smoke image as a PNG in base64."""
    smoke_classes: tuple[int, ...]


class DemoRuns(_Frozen):
    """The file."""

    source: str
    commit: str
    runs: dict[str, DemoRun]


@cache
def demo_runs(path: Path = DEMO_RUNS) -> DemoRuns:
    """Read the recorded runs. Raises UserError for a damaged file."""
    regular_file(path, most_bytes=_MOST_BYTES)
    try:
        return DemoRuns.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror or error}") from error
    except ValidationError as error:
        raise UserError(f"{printable(path)} holds no recorded runs: {complaint(error, {})}") from error
