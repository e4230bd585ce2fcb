"""Write the kept rows of `arvbench models` anew: `python tests/support/model_rows.py`."""

from __future__ import annotations

from arvbench.adapters.registry import MODELS, PLUG_INS
from arvbench.harness.commands.models import KEPT_ROWS, ModelRow, as_json_list, row_of


def rows() -> list[ModelRow]:
    """Describe every built-in model."""
    return [row_of(name) for name in MODELS if name not in PLUG_INS]


if __name__ == "__main__":
    KEPT_ROWS.write_text(as_json_list(rows()) + "\n")
