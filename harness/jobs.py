"""Messages between the runner and a worker process: the job, events while it runs, the result. All travel as JSON.

Their places in the run folder stand here too, for both sides:

  features/NAME/                 features of a case, until its record is stored; features/.NAME.lock while they are read
  features/shared-NAME/          features that several cases read, or images from the speed of a case for its quality,
                                 until the end of a run
  samples/RECORD.png             the sample sheet of a record
  memory/RECORD.pickle           CUDA's allocator history of the step with the largest transient
  .result-RECORD.json            a finished result, until its record is stored; of half a case, its speed
  .job-RECORD.lock               held by the runner while a process measures for that record
  .run-RUN.lock                  held by a runner from its begin to its end
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from arvbench.results.moments import Moment
from arvbench.results.schema import CaseConfig, Environment, Measured, Outcome

FEATURES_FOLDER = "features"
SHARED_PREFIX = "shared-"
"""Begin of the names of features that belong to no single record."""
SHEETS_FOLDER = "samples"
COMPILER_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Variables that name the folders in which compilers keep what they made."""


def _quoted(path: Path) -> str:
    return quote_from_bytes(os.fsencode(path))


def _unquoted(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError("a path is a text")
    return Path(os.fsdecode(unquote_to_bytes(value)))


MessagePath = Annotated[Path, PlainSerializer(_quoted, when_used="json"), PlainValidator(_unquoted)]
"""Path in a message. Names of files are bytes, and JSON is UTF-8: all but ASCII travels as %XX."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Event(_Message):
    """Progress of a worker."""

    phase: str
    done: int = 0
    total: int = 0
    """0 for a phase without a count."""
    note: str = ""
    pid: int | None = None
    """Process of the worker, with its first event."""


class Result(_Message):
    """Outcome of a job; `environment` is None when the worker ended before it could describe its machine."""

    outcome: Outcome
    environment: Environment | None = None
    lost: bool = False
    """True when the worker or its machine was lost from outside: another attempt may go well."""


class Part(StrEnum):
    """Part of a case that a process measures."""

    WHOLE = "whole"
    SPEED = "speed"
    """Correctness, times and memory: nothing else may run on the machine."""
    QUALITY = "quality"
    """Quality numbers and sample sheet of a case whose speed is known; cases side by side do not change them."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count` equal parts, from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, place: int) -> bool:
        """Return whether the case at a place, from 0, is of this shard; neighbours are of different ones."""
        return place % self.count == self.index - 1

    def range_of(self, total: int) -> range:
        """Return this shard's range of 0..total-1: ranges are consecutive, and differ by one in length at most."""
        return range(total * (self.index - 1) // self.count, total * self.index // self.count)


class Job(_Message):
    """One launch of a case to measure, or a part of it."""

    record_id: str
    case: CaseConfig
    folder: MessagePath
    """Run folder; pictures and kept features go below it."""
    extractor_files: dict[str, MessagePath] = Field(default_factory=dict)
    """Extractor weights given by the user: name in the table of weights -> file."""
    suite: str = ""
    case_id: str = ""
    launch: int = 1
    started: Moment | None = None
    """Start of the case, for the record. None for a job whose result nobody picks up later."""
    control: bool = False
    """Time the control probe before and after the calls; about 0.2 s."""
    lock_clocks: bool = False
    """Hold the clocks of the GPU meanwhile, where the driver permits it."""
    compiler_cache: MessagePath | None = None
    """Folder for the caches of compilers, unless the user has named others."""
    run: str = ""
    """Id of the run that the job belongs to; "" for a job of no run."""
    part: Part = Part.WHOLE
    speed: Result | None = None
    """Result of the first part, for the second."""
    spent_s: float = Field(default=0.0, ge=0)
    """Time that the first part took: it counts in the case's timeout."""
    shard: Shard | None = None
    """Of the second part, only the features of this part of the images, kept in the run folder; no numbers."""

    @model_serializer(mode="wrap")
    def _without_parts(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the fields of parts out of a whole case: a worker of an older version knows none."""
        fields: dict[str, Any] = write(self)
        for name in ("run", "part", "speed", "spent_s", "shard") if self.part is Part.WHOLE and not self.run else ():
            del fields[name]
        return fields


class Finished(_Message):
    """A result as the worker leaves it in the run folder: all that a later run needs to record it or to go on."""

    job: Job
    result: Result
    fingerprint: str = ""
    """Identity of the measurement when it ended; "" when it never got as far as describing the machine."""
    seconds: float = Field(default=0.0, ge=0)
    """Time that the process took for it."""

    @property
    def half(self) -> bool:
        """True when a part of the case is still to be measured; random weights have no quality."""
        case, outcome = self.job.case, self.result.outcome
        if self.job.part is not Part.SPEED or not isinstance(outcome, Measured):
            return False
        return case.sample_sheet > 0 or (case.quality is not None and not outcome.setup.weights_random)


def has_second_part(case: CaseConfig) -> bool:
    """Return whether a case asks for more than its speed."""
    return case.sample_sheet > 0 or case.quality is not None


def result_path(folder: Path, record_id: str) -> Path:
    """Return the file of a finished result, in the run folder until its record is stored."""
    return folder / f".result-{record_id}.json"


def memory_snapshot(folder: Path, record_id: str) -> Path:
    """Return the file of a record's allocator history."""
    return folder / "memory" / f"{record_id}.pickle"


def job_lock(folder: Path, record_id: str) -> Path:
    """Return the lock file that the runner of a job holds while it is measured."""
    return folder / f".job-{record_id}.lock"


def run_lock(folder: Path, run: str) -> Path:
    """Return the lock file that a runner holds as long as it lives."""
    return folder / f".run-{run}.lock"


def features_mark(works: Path, record_id: str) -> Path:
    """Return the file that says: the numbers that record `record_id` will hold are made of these features."""
    return works / f"measured-{record_id}"


EventListener = Callable[[Event], None]
