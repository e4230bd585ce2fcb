"""The table of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from arvbench.harness.run.engines.engine import Engine

ENGINES: Registry[type[Engine]] = Registry(
    "engine",
    {
        "local": "arvbench.harness.run.engines.local:LocalEngine",
        "spawn": "arvbench.harness.run.engines.spawn:SpawnEngine",
        "torchrun": "arvbench.harness.run.engines.torchrun:TorchrunEngine",
        "ray": "arvbench.harness.run.engines.ray:RayEngine",
    },
)
DEFAULT_ENGINE = "local"
"""The engine of `arvbench run`; `run_suite` takes any."""
