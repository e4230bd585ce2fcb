"""`arvbench models`: kept rows are true, and make the listing fast."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from model_rows import rows

import arvbench
from arvbench.harness.commands.models import kept_rows


def test_the_kept_row_of_every_model_is_true():
    kept, true = list(kept_rows().values()), rows()
    stale = [row.name for row in true if row not in kept] + [row.name for row in kept if row not in true]
    assert kept == true, f"python tests/support/model_rows.py writes models.json anew; stale: {sorted(set(stale))}"


def test_listing_the_models_imports_no_torch():
    code = "from arvbench.harness.cli import main; main(['models']); import sys; print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(arvbench.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "var-d36" in done.stdout and done.stdout.splitlines()[-1] == "False"
