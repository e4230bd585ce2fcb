"""Identity of a measurement: the same case, files, source, libraries and machine give the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from arvbench.adapters.registry import MODELS
from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import ExtractorFiles, weights_of
from arvbench.harness.quality.protocols.protocol import PROTOCOLS
from arvbench.harness.quality.reference.official import find_reference
from arvbench.results.schema import CaseConfig, Environment, QualityRequest


def fingerprint(case: CaseConfig, environment: Environment, given: ExtractorFiles | None = None) -> str:
    """sha256 over the case, the files that it reads, the package's source, the libraries and the hardware.

    `given` are files of extractor weights that a command line names.
    """
    gpu = environment.gpu
    identity = {
        "case": case.model_dump(mode="json"),
        "weight_files": _file_states(lambda: case_files(case)),
        "quality_files": _file_states(lambda: quality_files(case.quality, given)),
        "source": environment.source_sha256,
        "libraries": environment.libraries,
        "cpu": environment.cpu,
        "cores": environment.cores,
        "gpu": [gpu.name, gpu.driver] if gpu else None,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def case_files(case: CaseConfig) -> list[Path]:
    """Local files that a case's weights come from; none for random weights and the hub. Raises UserError."""
    from arvbench.adapters.loading import locate_weights

    return list(dict.fromkeys(locate_weights(MODELS[case.model], case.weights).values()))


def quality_files(quality: QualityRequest | None, given: ExtractorFiles | None = None) -> list[Path]:
    """Files that quality is judged by and that are no part of this package. Raises UserError for those not here."""
    if quality is None:
        return []
    # Torch and the metric libraries: only a case that asks for quality pays for them.
    from arvbench.harness.quality.extractors.weights import find_weights
    from arvbench.harness.quality.reference import reference_files

    extractors = dict.fromkeys(PROTOCOLS[name].extractor for name in quality.protocols)
    names = dict.fromkeys(weights_of(name) for name in extractors)
    weights = [find_weights(name, given or {}) for name in names if name]
    return reference_files(find_reference(quality.reference)) + weights


def _file_states(find: Callable[[], Iterable[Path]]) -> list[Any]:
    """Path, size and time of files: new content there is another measurement.

    Digests would be safer, and would read gigabytes before every run; the record itself has those of weights. Files
    that went away after the run was checked are a state too: the record of what was measured must still be written.
    """
    try:
        return [[str(path), (state := path.stat()).st_size, state.st_mtime_ns] for path in find()]
    except (UserError, OSError) as error:
        return [type(error).__name__]
