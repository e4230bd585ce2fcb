"""Messages between the runner and a worker process: the job, events while it runs, the result. All travel as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from arvbench.results.schema import CaseConfig, Environment, Outcome


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Job(_Message):
    """One case to measure."""

    record_id: str
    case: CaseConfig
    folder: Path
    """Run folder; pictures and kept features go below it."""
    extractor_files: dict[str, Path] = Field(default_factory=dict)
    """Extractor weights given by the user: name in the table of weights -> file."""


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


EventListener = Callable[[Event], None]
