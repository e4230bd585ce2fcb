"""The verdict of a check or of a comparison: one file, written by the gate and read by reports and by people.

Units    times in ns, memory in bytes, quality in the metric's own unit; ratios are head over base
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from arvbench.errors import ExitCode, UserError, complaint
from arvbench.paths import regular_file
from arvbench.results.moments import Moment

VERDICT_SCHEMA_VERSION: Final = 1
VERDICT_NAME: Final = "verdict.json"
"""Name of the file in a run folder."""
_MOST_BYTES = 2**28


class Verdict(StrEnum):
    """Judgement of one gated number, or of a whole check."""

    PASS = "pass"
    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    INCONCLUSIVE = "inconclusive"
    """The noise hides changes that matter: neither side is blamed."""
    MACHINE = "machine"
    """The machine moved during the check: no code is blamed."""
    UNUSABLE = "unusable"
    """The number is missing, or is none; nothing passes by absence."""


class Cause(StrEnum):
    """Most likely cause of a change between two runs."""

    CODE = "code"
    """Only the case moved, on one machine and by one method."""
    MACHINE = "machine"
    """The machine is another one, or moved: its control moved too."""
    METHOD = "method"
    """The harness, the libraries or the settings of the measurement differ."""
    NOISE = "noise"
    """No larger than what launches of one source differ by."""
    UNKNOWN = "unknown"
    """The records do not tell."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Side(_Frozen):
    """One of the two sides of a comparison."""

    name: str
    """Request of the user: a git ref, "working tree", a baseline file or a run folder."""
    commit: str | None = None
    dirty: bool | None = None
    source_sha256: str | None = None
    """Digest of the samplers and kernels that ran."""
    record_ids: tuple[str, ...] = ()
    """Records behind the numbers, in the order measured."""


class Change(_Frozen):
    """One gated number on both sides."""

    case: str
    """Name of the case, as in the suite."""
    number: str
    """Scope of a time ("images", "tokens", "decode", "step[i]"), a field of memory, or a metric with its protocol."""
    kind: Literal["time", "memory", "cache", "quality"]
    unit: str
    lower_is_better: bool = True
    base: tuple[float, ...]
    """One value per launch (of a time, the median of its calls), in the order measured."""
    head: tuple[float, ...]
    ratio: float | None = None
    """Head over base; above 1 is worse where lower is better. None when a side has no usable value."""
    interval: tuple[float, float] | None = None
    """95 % interval of the ratio; None when the launches are too few for one."""
    smallest_detectable: float | None = None
    """Smallest relative change that would be found with 95 % power; None for exact numbers."""
    p: float | None = None
    """Adjusted for all gated numbers of the check; None for exact numbers."""
    slow_share: tuple[float, float] | None = None
    """Shares of slow launches of base and head, where the launches have two modes."""
    verdict: Verdict
    cause: Cause | None = None
    """None where nobody asked for it."""
    reason: str
    """One sentence that a reader of a pull request understands."""

    @property
    def worsening(self) -> float:
        """Return how many times worse head is, above 1 for worse; infinity when a side has no usable value."""
        if self.ratio is None or not math.isfinite(self.ratio) or self.ratio <= 0:
            return math.inf
        return self.ratio if self.lower_is_better else 1 / self.ratio


class Look(_Frozen):
    """One look at the launches of a check, by which numbers were decided."""

    launches: int
    """Launches per side that it judged, those of the looks before it included."""
    level: float
    """Its part of the probability that a check of equal code blames anything."""


class Check(_Frozen):
    """A whole check."""

    schema_version: Literal[1] = VERDICT_SCHEMA_VERSION
    run_id: str
    """The records of this run, and of no other, are behind the numbers."""
    suite: str
    started: Moment
    finished: Moment
    hardware: str
    """Hardware class: what stays the same when the machine is started again."""
    base: Side
    head: Side
    verdict: Verdict
    exit_code: int
    machine: tuple[str, ...] = ()
    """Signs that the machine moved, one sentence each."""
    unusable: tuple[str, ...] = ()
    """Reasons why nothing can be said, one sentence each."""
    changes: tuple[Change, ...]
    command: str
    """Command that makes the check again."""
    looks: tuple[Look, ...] = ()
    """Of a check against a commit, in their order; later ones judged what was inconclusive before."""


SEVERITY: Final = (
    Verdict.REGRESSION,
    Verdict.UNUSABLE,
    Verdict.MACHINE,
    Verdict.INCONCLUSIVE,
    Verdict.IMPROVEMENT,
    Verdict.PASS,
)
"""Verdicts, the worst first: the verdict of a whole is the worst of its parts."""
EXIT_CODES: Final = {
    Verdict.REGRESSION: ExitCode.FAILURES,
    Verdict.UNUSABLE: ExitCode.UNUSABLE,
    Verdict.MACHINE: ExitCode.MACHINE,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Verdict.IMPROVEMENT: ExitCode.OK,
    Verdict.PASS: ExitCode.OK,
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of a whole; unusable for none, since nothing passes by absence."""
    return min(verdicts, key=SEVERITY.index, default=Verdict.UNUSABLE)


def worst_first(changes: Iterable[Change]) -> list[Change]:
    """Sort by severity, then by how much worse head is, then by name."""
    return sorted(changes, key=lambda c: (SEVERITY.index(c.verdict), -c.worsening, c.case, c.number))


def read_verdict(path: Path) -> Check:
    """Read a verdict file. Raises UserError for one that is missing, damaged or of another schema."""
    regular_file(path, most_bytes=_MOST_BYTES)
    try:
        return Check.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is not a verdict: {complaint(error, {})}") from error
