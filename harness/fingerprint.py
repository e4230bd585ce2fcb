"""Identity of a measurement: the same case, files, source, libraries and machine give the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from arvbench.adapters.registry import MODELS
from arvbench.errors import UserError
from arvbench.results.schema import CaseConfig, Environment, QualityRequest


def fingerprint(case: CaseConfig, environment: Environment, inception_weights: Path | None = None) -> str:
    """sha256 over the case, the files that it reads, the package's source, the libraries and the hardware.

    `inception_weights` is the extractor's file, where a command line names one; else ARVBENCH_INCEPTION does.
    """
    gpu = environment.gpu
    identity = {
        "case": case.model_dump(mode="json"),
        "weight_files": _file_states(lambda: weight_files(case)),
        "quality_files": _file_states(lambda: quality_files(case.quality, inception_weights)),
        "source": environment.source_sha256,
        "libraries": environment.libraries,
        "cpu": environment.cpu,
        "cores": environment.cores,
        "gpu": [gpu.name, gpu.driver] if gpu else None,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def weight_files(case: CaseConfig) -> list[Path]:
    """Local files that a case's weights come from; none for random weights and the hub. Raises UserError."""
    from arvbench.adapters.loading import locate_weights

    return list(dict.fromkeys(locate_weights(MODELS[case.model], case.weights).values()))


def quality_files(quality: QualityRequest | None, inception_weights: Path | None = None) -> list[Path]:
    """Files that quality is judged by and that are no part of this package. Raises UserError for those not here."""
    if quality is None:
        return []
    # Torch and torch-fidelity: only a case that asks for quality pays for them.
    from arvbench.harness.quality.reference import DIGITS, ImageFolder

    files = [] if quality.reference == DIGITS else list(ImageFolder(Path(quality.reference)).paths)
    if quality.extractor == "inception":
        from arvbench.harness.quality.inception import find_weights

        files.append(find_weights(inception_weights))
    return files


def _file_states(find: Callable[[], Iterable[Path]]) -> list[Any]:
    """Path, size and time of files: new content there is another measurement.

    Digests would be safer, and would read gigabytes before every run; the record itself has those of weights. Files
    that went away after the run was checked are a state too: the record of what was measured must still be written.
    """
    try:
        return [[str(path), (state := path.stat()).st_size, state.st_mtime_ns] for path in find()]
    except (UserError, OSError) as error:
        return [type(error).__name__]
