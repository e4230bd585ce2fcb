"""Engine of one side of a check: every launch is a fresh process of that side's package and interpreter."""

from __future__ import annotations

from arvbench.errors import ContractError
from arvbench.harness.check.sides import BuiltSide
from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.harness.run.engines.spawn import SpawnEngine
from arvbench.results.schema import Environment


class SideEngine(SpawnEngine):
    """Starts workers of one side; their records name its commit, which a copy of the source does not know."""

    def __init__(self, built: BuiltSide) -> None:
        super().__init__()
        self.python = built.python
        self._side = built.side

    def environment(self, device: str) -> Environment:
        source = {"source_sha256": self._side.source_sha256}
        return self._of_commit(super().environment(device).model_copy(update=source))

    def run(self, job: Job, listener: EventListener) -> Result:
        result = super().run(job, listener)
        if result.environment is None:
            return result
        if result.environment.source_sha256 != self._side.source_sha256:
            raise ContractError(
                f"a worker of {self._side.name} ran the source {result.environment.source_sha256}, not that of its "
                f"side, {self._side.source_sha256}"
            )
        return result.model_copy(update={"environment": self._of_commit(result.environment)})

    def _of_commit(self, environment: Environment) -> Environment:
        return environment.model_copy(update={"git_commit": self._side.commit, "git_dirty": self._side.dirty})
