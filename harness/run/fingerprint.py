"""Identity of a measurement: equal case, files, source, libraries and machine give equal fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from arvbench.adapters.cache.request import is_lossy, read_request
from arvbench.adapters.methods.request import spec_of
from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import ExtractorFiles, weights_of
from arvbench.harness.quality.protocols.protocol import PROTOCOLS
from arvbench.harness.quality.reference.official import find_reference
from arvbench.paths import user_path
from arvbench.results.schema import CaseConfig, Environment, QualityRequest
from arvbench.results.search import identity_of


def fingerprint(
    case: CaseConfig, environment: Environment, extractor_files: ExtractorFiles | None = None, *, launch: int = 1
) -> str:
    """Return a sha256 over a launch of the case, its files, the package's source, the libraries and the hardware.

    `extractor_files` are weights that the user named. The number of launches is not part of it, nor are the budget and
    the confirmation of a search: a rerun with more of them measures those that are missing.
    """
    identity = {
        "case": identity_of(case),
        "launch": launch,
        "weight_files": _file_states(lambda: case_files(case)),
        "quality_files": _file_states(lambda: quality_files(case.quality, extractor_files)),
        **environment.identity(),
    }
    if calibration := calibration_file(case.cache):
        identity["calibration"] = _file_states(lambda: [calibration])
    if lpips := lpips_file(case, extractor_files):
        identity["lpips"] = _file_states(lambda: [lpips])
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def lpips_file(case: CaseConfig, extractor_files: ExtractorFiles | None) -> Path | None:
    """Return the weights of LPIPS where a case may have it: a lossy one, where the file is found."""
    if case.dtype == "float32" and case.method is None and not lossy_text(case.cache):
        return None
    from arvbench.harness.quality.extractors.weights import find_weights

    try:
        return find_weights("lpips-alex", extractor_files or {})
    except UserError:
        return None


def lossy_text(cache: str | None) -> bool:
    """Return whether a cache policy is lossy; False for text that is no policy."""
    try:
        return is_lossy(cache)
    except UserError:
        return False


def calibration_file(cache: str | None) -> Path | None:
    """Return the calibration file of a cache policy; None without one, or for text that is no policy."""
    try:
        options = read_request(cache or "").options
    except UserError:
        return None
    return user_path(options["calibration"]) if "calibration" in options else None


def case_files(case: CaseConfig) -> list[Path]:
    """Return the local files of a case's weights; none for random weights and the hub. Raises UserError."""
    from arvbench.adapters.loading import locate_weights

    return list(dict.fromkeys(locate_weights(spec_of(case.model, case.method), case.weights).values()))


def quality_files(quality: QualityRequest | None, extractor_files: ExtractorFiles | None = None) -> list[Path]:
    """Return the reference files and extractor weights of a request. Raises UserError for a missing one."""
    if quality is None:
        return []
    # Torch and the metric libraries: only a case that asks for quality pays for them.
    from arvbench.harness.quality.extractors.weights import find_weights
    from arvbench.harness.quality.reference import reference_files

    extractors = dict.fromkeys(PROTOCOLS[name].extractor for name in quality.protocols)
    names = dict.fromkeys(weights_of(name) for name in extractors)
    weights = [find_weights(name, extractor_files or {}) for name in names if name]
    return reference_files(find_reference(quality.reference)) + weights


def _file_states(find: Callable[[], Iterable[Path]]) -> list[Any]:
    """Return path, size and time of files: new content at an old path is another measurement.

    Digests would be safer, but reading gigabytes before every run costs too much; records hold the digests of weights.
    Files that vanished during a run are a state too, since its record must still be written.
    """
    try:
        return [[str(path), (state := path.stat()).st_size, state.st_mtime_ns] for path in find()]
    except (UserError, OSError) as error:
        return [type(error).__name__]
