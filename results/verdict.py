"""The verdict of a check: one file, written by the gate and read by reports and by people.

Units    times in ns, memory in bytes, quality in the metric's own unit; ratios are head over base
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

VERDICT_SCHEMA_VERSION: Final = 1


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
    reason: str
    """One sentence that a reader of a pull request understands."""


class Check(_Frozen):
    """A whole check."""

    schema_version: Literal[1] = VERDICT_SCHEMA_VERSION
    run_id: str
    """The records of this run, and of no other, are behind the numbers."""
    suite: str
    started: datetime
    finished: datetime
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
