"""Functions that run on the nodes of a Ray cluster. A node needs arvbench, and no file of the driver's machine."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from arvbench.errors import ArvbenchError, HostError
from arvbench.files import scratch_folder
from arvbench.harness.jobs import FEATURES_FOLDER, SHEETS_FOLDER, Event, Job, Part, Result
from arvbench.harness.run.engines.parcels import Parcel, pack, unpack
from arvbench.results.schema import Failed

Post = Callable[[str], None]
"""Sends an event, as JSON, to the driver."""
_POSTED_S = 10.0
"""Time for the last event to arrive."""


class Answer(NamedTuple):
    """End of a task: a result as JSON and its files, or what this node lacks."""

    node: str
    result: str
    files: Parcel
    refused: str = ""


def describe(device: str) -> str:
    """Return the environment of this node for a device, as JSON. Raises HostError naming the node."""
    from arvbench.harness.run.engines.spawn import SpawnEngine

    try:
        return SpawnEngine().environment(device).model_dump_json()
    except ArvbenchError as error:
        raise HostError(f"node {platform.node()}: {error}") from error


def run_job(message: str, parcels: tuple[Parcel, ...], post: Post) -> Answer:
    """Measure a job in a process of its own, as the engine of one machine does, in a scratch folder."""
    from arvbench.harness.run.engines.spawn import SpawnEngine

    node, engine = platform.node(), SpawnEngine()
    try:
        with scratch_folder() as folder:
            for parcel in parcels:
                unpack(parcel, folder)
            job = Job.model_validate_json(message).model_copy(update={"folder": folder})
            _check_files(job)
            post(Event(phase=f"on {node}").model_dump_json())
            result = _of_node(node, engine.run(job, lambda event: post(event.model_dump_json())))
            return Answer(node, result.model_dump_json(), pack(folder, _outputs(folder, job)))
    except (ArvbenchError, OSError) as error:
        return Answer(node, "", {}, f"node {node}: {error}")
    finally:
        engine.close()


def _of_node(node: str, result: Result) -> Result:
    """Return the result; a failure names its node, whose disk or device may be the reason."""
    if not isinstance(failed := result.outcome, Failed):
        return result
    named = failed.model_copy(update={"reason": f"node {node}: {failed.reason}"})
    return result.model_copy(update={"outcome": named})


def _check_files(job: Job) -> None:
    """Raise UserError for weights or references that this node lacks, before anything is loaded."""
    from arvbench.harness.run.fingerprint import case_files, quality_files

    for path in (*case_files(job.case), *(quality_files(job.case.quality, job.extractor_files))):
        if not path.exists():
            raise HostError(f"no such file: {path}")


def _outputs(folder: Path, job: Job) -> list[Path]:
    """Return what the driver keeps of a job: its sample sheet and the mark of features that a record is made of.

    Of a shard its features, of a timed job the images of its calls.
    """
    features = [path for path in (folder / FEATURES_FOLDER).rglob("*") if not path.name.startswith(".")]
    if job.shard is None and job.part is Part.QUALITY:
        features = [path for path in features if path.name.startswith("measured-")]
    return [*(folder / SHEETS_FOLDER).glob("*.png"), *features]


class Board:
    """Actor that holds the events of running tasks until the driver takes them."""

    def __init__(self) -> None:
        self._events: list[tuple[str, str]] = []

    def post(self, task: str, event: str) -> None:
        self._events.append((task, event))

    def take(self) -> list[tuple[str, str]]:
        """Return the events since the last call, as (task, JSON)."""
        events, self._events = self._events, []
        return events


class Poster:
    """Sends events of a task to the board, without waiting for it."""

    def __init__(self, board: Any, task: str) -> None:
        self._board, self._task = board, task
        self._last: Any = None

    def __call__(self, event: str) -> None:
        self._last = self._board.post.remote(self._task, event)

    def wait(self) -> None:
        """Wait until the board has all events: the driver asks no more once it has the answer. Raises RayError."""
        import ray

        if self._last is not None:
            ray.get(self._last, timeout=_POSTED_S)
