"""Stored baselines: launches that were accepted as the speed of a machine, and how much its launches differ.

A file is for one hardware class and one suite. It has two anchors: the launches that were accepted last, which a
change on purpose moves, and those of the last release, which only a release moves. Against the second, small steps that
each stay below the noise add up. A calibration is a set of launches of one commit, and the noise found in it.

The file is one JSON object with one record per line. Records are kept without what no comparison reads: the plan of a
case, its cache step by step, findings and pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from arvbench.errors import UserError, complaint
from arvbench.files import write_whole
from arvbench.paths import printable, regular_file
from arvbench.results.comparison import hardware_class
from arvbench.results.moments import Moment
from arvbench.results.schema import Measured, Record

BASELINE_SCHEMA_VERSION: Final = 1
_MOST_BYTES = 2**28


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Noise(_Frozen):
    """Noise of one gated number between launches of one commit. None is unknown: an exact number, or few launches."""

    case: str
    number: str
    within_cv: float | None
    """Standard deviation over mean of the calls of a launch, root mean square over the launches."""
    between_cv: float | None
    """Standard deviation over mean of the launches."""
    modes: int
    """2 when the launches have a fast and a slow mode, else 1."""
    mde: float | None
    """Smallest relative change that a check of as many launches on each side finds with 95 % power."""


class Calibration(_Frozen):
    """Launches of one commit on one machine, measured to know its noise."""

    at: Moment
    launches: tuple[str, ...] = Field(min_length=1)
    """Ids of their records."""
    noise: tuple[Noise, ...]


class Anchor(_Frozen):
    """Launches that were accepted as what later ones are compared with."""

    by: str
    """Who accepted them."""
    reason: str = Field(min_length=1)
    at: Moment
    run_url: str | None = None
    """CI run that measured them; None outside CI."""
    launches: tuple[str, ...] = Field(min_length=1)
    """Ids of their records."""


class Baseline(_Frozen):
    """One baseline file."""

    schema_version: Literal[1] = BASELINE_SCHEMA_VERSION
    suite: str
    hardware: str
    """Hardware class: what stays the same when the machine is started again."""
    calibration: Calibration
    accepted: Anchor
    release: Anchor
    records: tuple[Record, ...] = Field(min_length=1)
    """Launches that the calibration and the anchors name, each once."""

    @model_validator(mode="after")
    def _names_its_own_records(self) -> Baseline:
        ids = [record.record_id for record in self.records]
        if len(set(ids)) < len(ids):
            raise ValueError("a record is in it twice")
        if missing := {*self.calibration.launches, *self.accepted.launches, *self.release.launches} - {*ids}:
            raise ValueError(f"it names {len(missing)} launches that it does not hold")
        if others := {hardware_class(record.environment) for record in self.records} - {self.hardware}:
            raise ValueError(f"it has launches of another hardware class: {', '.join(sorted(others))}")
        return self

    def records_of(self, anchor: Anchor | Calibration) -> list[Record]:
        """Return the records of an anchor, in the order of its launches."""
        by_id = {record.record_id: record for record in self.records}
        return [by_id[name] for name in anchor.launches]


def make_baseline(
    *, suite: str, calibration: Calibration, accepted: Anchor, release: Anchor, records: Iterable[Record]
) -> Baseline:
    """Make a baseline of the records that its parts name; others are left out."""
    named = {*calibration.launches, *accepted.launches, *release.launches}
    kept = {record.record_id: _slim(record) for record in records if record.record_id in named}
    hardware = dict.fromkeys(hardware_class(record.environment) for record in kept.values())
    return Baseline(
        suite=suite,
        hardware=next(iter(hardware), ""),
        calibration=calibration,
        accepted=accepted,
        release=release,
        records=tuple(kept.values()),
    )


def baseline_name(hardware: str) -> str:
    """Return the file name of the baseline of a hardware class: "nvidia-h200-140-gib-driver-575.json"."""
    return re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-") + ".json"


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file. Raises UserError for one that is missing, empty, damaged or of another schema."""
    regular_file(path, most_bytes=_MOST_BYTES)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror or error}") from error
    if not content.strip():
        raise UserError(f"{printable(path)} is empty: make it with `arvbench baseline calibrate`")
    try:
        return Baseline.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{printable(path)} is no baseline: {_fault(error)}") from error


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline file whole, with one record per line. Raises UserError when it cannot be written."""
    head = baseline.model_dump_json(exclude={"records"}, indent=1).removesuffix("\n}")
    lines = ",\n".join(record.model_dump_json() for record in baseline.records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f'{head},\n "records": [\n{lines}\n]\n}}\n')
    except OSError as error:
        raise UserError(f"cannot write {printable(path)}: {error.strerror or error}") from error


def _fault(error: ValidationError) -> str:
    if any(fault["loc"] == ("schema_version",) for fault in error.errors()):
        return f"its schema is not version {BASELINE_SCHEMA_VERSION}; use the arvbench that wrote it, or calibrate anew"
    return complaint(error, {"": Baseline.model_fields})


def _slim(record: Record) -> Record:
    if not isinstance(record.outcome, Measured):
        return record
    outcome = record.outcome
    setup = outcome.setup.model_copy(update={"plan": ()})
    changes = {"setup": setup, "cache": (), "findings": (), "sample_sheet": None}
    return record.model_copy(update={"outcome": outcome.model_copy(update=changes)})
