"""Half-measured cases in the run folder: their speed is known, and their quality is still to be measured.

Each is the finished result of a speed part (`jobs.result_path`). It stays until the whole case is recorded, and a later
run, or one beside this one, goes on from it. It is stale, and removed, when its fingerprint can no longer come about, a
later record has that fingerprint, or the case is measured anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from arvbench.files import write_whole
from arvbench.harness.jobs import Finished, result_path
from arvbench.harness.run.leftovers import finished_result, lives, owned, result_ids
from arvbench.harness.run.store import RecordStore


class Halves:
    """The half-measured cases of a run folder, those of runs beside this one included."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._read: dict[str, Finished] = {}
        """Record id -> half; its file does not change as long as it is one."""

    def find(self, identity: str) -> Finished | None:
        """Return the latest half with this fingerprint."""
        return max(
            (half for half in self._all() if half.fingerprint == identity),
            key=lambda half: half.job.started.timestamp() if half.job.started else 0.0,
            default=None,
        )

    def keep(self, half: Finished) -> None:
        """Put a half on disk, in the place of what its worker wrote, which does not know its telemetry."""
        with suppress(OSError):  # a full disk: this run goes on, and only a kill would cost the speed
            write_whole(self._path(half.job.record_id), half.model_dump_json())

    def forget(self, identity: str) -> None:
        """Remove the halves of ended runs that have this fingerprint."""
        self.clear(lambda half: half.fingerprint == identity)

    def clear(self, is_stale: Callable[[Finished], bool]) -> None:
        """Remove the stale halves of ended runs."""
        for half in list(self._all()):
            if is_stale(half) and not lives(self._store, half.job.run):
                with owned(self._store, half.job.record_id) as mine:
                    if mine:
                        self.drop(half)

    def drop(self, half: Finished) -> None:
        """Remove one half."""
        with suppress(OSError):  # it costs room, and the next run tries again
            self._path(half.job.record_id).unlink(missing_ok=True)

    def _path(self, record_id: str) -> Path:
        return result_path(self._store.folder, record_id)

    def _all(self) -> Iterator[Finished]:
        for record_id in result_ids(self._store):
            if record_id not in self._read:
                finished = finished_result(self._path(record_id))
                if finished is None or not finished.half:
                    continue
                self._read[record_id] = finished
            yield self._read[record_id]
