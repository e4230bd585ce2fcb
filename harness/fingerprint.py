"""Identity of a measurement: the same case, source, torch and machine give the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from arvbench.results.schema import CaseConfig, Environment


def fingerprint(case: CaseConfig, environment: Environment) -> str:
    """sha256 over the case, the weight files it names, the package's source, torch and the hardware."""
    identity = {
        "case": case.model_dump(mode="json"),
        "weight_files": _file_states(Path(case.weights).expanduser()),
        "source": environment.source_sha256,
        "torch": environment.libraries["torch"],
        "cpu": environment.cpu,
        "cores": environment.cores,
        "gpu": environment.gpu.name if environment.gpu else None,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _file_states(path: Path) -> list[Any]:
    """Name, size and time of the files at a path of weights: new files there are another measurement.

    Digests would be safer, and would read gigabytes before every run; the record itself has them.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
