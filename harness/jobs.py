"""What a worker process is told, what it says while it works, and what it leaves behind. All three travel as JSON."""

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
    """Run folder: pictures go below it."""
    extractor_files: dict[str, Path] = Field(default_factory=dict)
    """Weights of extractors that the user gave: name in the table of weights -> file."""


class Event(_Message):
    """Progress of a worker."""

    phase: str
    done: int = 0
    total: int = 0
    """0 when the phase cannot be counted."""
    note: str = ""


class Result(_Message):
    """How a job ended. `environment` is None when the worker could not say where it ran."""

    outcome: Outcome
    environment: Environment | None = None


EventListener = Callable[[Event], None]
