"""Messages between the runner and a worker process: the job, events while it runs, the result. All travel as JSON.

Their places in the run folder stand here too, for both sides:

  features/NAME/                 features of a case, until its record is stored; features/.NAME.lock while they are read
  samples/RECORD.png             the sample sheet of a record
  .result-RECORD.json            a finished result, until its record is stored
  .job-RECORD.lock               held by the runner of the job until then
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from arvbench.results.schema import CaseConfig, Environment, Outcome

FEATURES_FOLDER = "features"
SHEETS_FOLDER = "samples"


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


class Job(_Message):
    """One launch of a case to measure."""

    record_id: str
    case: CaseConfig
    folder: MessagePath
    """Run folder; pictures and kept features go below it."""
    extractor_files: dict[str, MessagePath] = Field(default_factory=dict)
    """Extractor weights given by the user: name in the table of weights -> file."""
    suite: str = ""
    case_id: str = ""
    launch: int = 1
    started: datetime | None = None
    """Start of the job, for the record. None for a job whose result nobody picks up later."""
    control: bool = False
    """Time the control probe before and after the calls; about 0.2 s."""


class Event(_Message):
    """Progress of a worker."""

    phase: str
    done: int = 0
    total: int = 0
    """0 for a phase without a count."""
    note: str = ""


class Result(_Message):
    """Outcome of a job; `environment` is None when the worker ended before it could describe its machine."""

    outcome: Outcome
    environment: Environment | None = None


class Finished(_Message):
    """A result as the worker leaves it in the run folder: all that a later run needs to make its record."""

    job: Job
    result: Result
    fingerprint: str = ""
    """Identity of the measurement when it ended; "" when it never got as far as describing the machine."""


def result_path(folder: Path, record_id: str) -> Path:
    """Return the file of a finished result, in the run folder until its record is stored."""
    return folder / f".result-{record_id}.json"


def job_lock(folder: Path, record_id: str) -> Path:
    """Return the lock file that the runner of a job holds until the record is stored."""
    return folder / f".job-{record_id}.lock"


def features_mark(works: Path, record_id: str) -> Path:
    """Return the file that says: the numbers that record `record_id` will hold are made of these features."""
    return works / f"measured-{record_id}"


EventListener = Callable[[Event], None]
