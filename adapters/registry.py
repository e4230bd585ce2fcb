"""The table of models: one line per model, imported when it is asked for.

Other distributions add models through the entry-point group "arvbench.models"; each entry names a ModelSpec.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from arvbench.adapters.base import ModelSpec

_BUILT_IN = {
    "demo/var": "arvbench.adapters.var:DEMO",
    "var-d16": "arvbench.adapters.var:VAR_D16",
    "var-d20": "arvbench.adapters.var:VAR_D20",
    "var-d24": "arvbench.adapters.var:VAR_D24",
    "var-d30": "arvbench.adapters.var:VAR_D30",
    "var-d36": "arvbench.adapters.var:VAR_D36",
}

# A built-in name wins over an entry point of the same name: nobody replaces a model silently.
MODELS: Registry[ModelSpec] = Registry(
    "model", {point.name: point.value for point in entry_points(group="arvbench.models")} | _BUILT_IN
)
