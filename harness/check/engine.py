"""Engines of the sides of a check: every launch is a process of its own, of that side's package and interpreter.

Launches on a CPU are forked from a warm process of their side, and the warm processes of both sides from one that has
imported the libraries (libraries.py). Where a side has an interpreter of its own, both start fresh, and so do launches
on a GPU.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from arvbench.errors import ContractError
from arvbench.harness.check.sides import BuiltSide
from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.harness.machine.forks import WarmProcess, start_warm
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.results.schema import Environment


class WarmSides:
    """Warm processes of sides with one memory layout, which is another one every few launches."""

    def __init__(self, *, least: int) -> None:
        """Draw a new layout with the first launch of a round after `least` launches; 1 for one in every round."""
        self._least = least
        self._libraries: WarmProcess | None = None
        self._sides: dict[str, WarmProcess] = {}
        """Folder of a side's package -> its warm process."""
        self._round = self._launches = 0
        self._starting = threading.Lock()

    def of(self, built: BuiltSide, launch: int, deadline: float) -> WarmProcess | None:
        """Return the warm process of a side for a launch; None when none is ready before the deadline."""
        root = str(built.python.package_root)
        with self._starting:
            if launch != self._round and self._launches >= self._least:
                self._end()
            self._round = launch
            side = self._sides.get(root)
            if side is None or not side.ready(deadline):
                side = self._started(root, deadline)
            self._launches += 1
            return side

    def _started(self, root: str, deadline: float) -> WarmProcess | None:
        if root in self._sides:
            self._sides.pop(root).close()
        if self._libraries is None or not self._libraries.ready(deadline):
            self._end()
            self._libraries = start_warm("arvbench.harness.check.libraries")
        if not self._libraries.ready(deadline):
            self._end()
            return None
        side = self._sides[root] = self._libraries.forked([root])
        if side.ready(deadline):
            return side
        self._sides.pop(root).close()
        return None

    def close(self) -> None:
        """End the processes; a later launch starts others."""
        with self._starting:
            self._end()

    def _end(self) -> None:
        for warm in (*self._sides.values(), self._libraries):
            if warm is not None:
                warm.close()
        self._sides, self._libraries, self._launches = {}, None, 0


@contextlib.contextmanager
def side_engines(*sides: BuiltSide, least: int) -> Iterator[list[SideEngine]]:
    """Yield the engines of sides that are compared with each other; their processes are gone when the block ends."""
    with contextlib.closing(WarmSides(least=least)) as warm:
        alike = all(built.python.executable == sys.executable for built in sides)
        engines = [SideEngine(built, warm if alike else None) for built in sides]
        with contextlib.ExitStack() as stack:
            for engine in engines:
                stack.callback(engine.close)
            yield engines


class SideEngine(LocalEngine):
    """Starts workers of one side; their records name its commit, which a copy of the source does not know."""

    def __init__(self, built: BuiltSide, warm: WarmSides | None = None) -> None:
        """Fork launches from processes of `warm`; without it they start fresh."""
        super().__init__()
        self.python = built.python
        self._built, self._warm_sides = built, warm

    def environment(self, device: str) -> Environment:
        source = {"source_sha256": self._built.side.source_sha256}
        return self._of_commit(super().environment(device).model_copy(update=source))

    def run(self, job: Job, listener: EventListener) -> Result:
        side = self._built.side
        result = super().run(job, listener)
        if result.environment is None:
            return result
        if result.environment.source_sha256 != side.source_sha256:
            raise ContractError(
                f"a worker of {side.name} ran the source {result.environment.source_sha256}, not that of its "
                f"side, {side.source_sha256}"
            )
        return result.model_copy(update={"environment": self._of_commit(result.environment)})

    def warm_process(self, job: Job, deadline: float) -> WarmProcess | None:
        return None if self._warm_sides is None else self._warm_sides.of(self._built, job.launch, deadline)

    def _of_commit(self, environment: Environment) -> Environment:
        side = self._built.side
        return environment.model_copy(update={"git_commit": side.commit, "git_dirty": side.dirty})
