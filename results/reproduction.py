"""A published number made again: what was to be met, what came out, and what to suspect where it was not met.

Units    numbers of quality in the metric's own
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from arvbench.errors import ExitCode
from arvbench.results.machine import Frozen

REPRODUCTION_FORMAT: Final = 1
"""Version of the file; raised when a field changes its meaning."""
REPRODUCTION_NAME: Final = "reproduction.json"
"""Name of the file in the run folder."""


class Outcome(StrEnum):
    """Judgement of one number, or of the whole."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"


EXIT_CODES: Final = {
    Outcome.REPRODUCED: ExitCode.OK,
    Outcome.NOT_REPRODUCED: ExitCode.FAILURES,
    Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}


class Target(Frozen):
    """A published number, and how far from it a reproduction may be."""

    metric: str
    """Name of our metric that it is compared with."""
    value: float
    rounding: float
    """Half a unit of the last digit that was published."""
    tolerance: float | None
    """Absolute difference that the source allows; None where it states none: the rule decides (`judged`)."""
    images: int
    """Behind the published number."""
    protocol: str
    """Evaluator, in the words of the source."""
    protocol_id: str | None
    """Of ours, where the source is a record of ours."""
    source: str
    seen: str
    note: str


class Judged(Frozen):
    """A published number beside ours."""

    target: Target
    value: float
    interval: tuple[float, float] | None
    allowed: float | None
    """Largest difference that is a reproduction; None where nothing can be said."""
    outcome: Outcome
    reason: str

    @property
    def difference(self) -> float:
        return self.value - self.target.value


class SmokeCheck(Frozen):
    """One check of the smoke image."""

    name: str
    passed: bool | None
    """None where there was nothing to compare with."""
    text: str


class Suspect(Frozen):
    """A possible cause of a difference, and the command that tests it."""

    cause: str
    state: Literal["differs", "as the recipe", "not stated", "to be tested"]
    """Difference of this run from the recipe; whether the source is silent, or only a test can tell."""
    text: str
    command: str


class Need(Frozen):
    """A file that is not here."""

    what: str
    file: str
    source: str
    """Repository or address."""
    size: str
    sha256: str
    """Whole digest; "" where no source that the project knows states it."""
    put: str
    """Option, folder or variable that tells where it lies."""
    licence: str = ""


class Reproduction(Frozen):
    """The whole attempt."""

    format: Literal[1] = REPRODUCTION_FORMAT
    model: str
    recipe: str
    images: int
    weights_sha256: dict[str, str]
    outcome: Outcome
    exit_code: int
    reason: str
    smoke: tuple[SmokeCheck, ...]
    numbers: tuple[Judged, ...] = ()
    also_published: tuple[Target, ...] = ()
    """Numbers of the same model from other sources; not judged."""
    suspects: tuple[Suspect, ...] = ()
    """Differences first; empty for a number that is reproduced."""
    notes: tuple[str, ...] = ()
    record_ids: tuple[str, ...]
    command: str
    """Command that makes the attempt again, or goes on after an interruption."""
