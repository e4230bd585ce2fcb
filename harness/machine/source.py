"""Digest of the source that measures: two records with equal digests ran equal code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import arvbench

_METHOD_FOLDERS = ("harness/machine", "harness/measure", "harness/quality", "harness/run")
"""Folders whose source takes the numbers."""
_MEASURING_FOLDERS = ("adapters", "harness", "kernels", "results")
"""Folders whose source can change a measurement. Reports only read records: an edit there must not repeat any."""
_MEASURING_SUFFIXES = (".py", ".safetensors")


@cache
def source_sha256() -> str:
    """Return the digest of this package, computed once per process: an edit does not change imported code."""
    return digest_of_source(Path(arvbench.__file__).parent)


@cache
def method_sha256() -> str:
    """Return the digest of the source that takes the numbers, without the samplers and kernels that it measures."""
    return digest_of_source(Path(arvbench.__file__).parent, _METHOD_FOLDERS)


def digest_of_source(package: Path, folders: Sequence[str] = _MEASURING_FOLDERS) -> str:
    """Return a digest of names and contents of all files in a package folder that can change a measurement."""
    files = [(path.name, path) for path in package.glob("*.py")]
    for folder in folders:
        # Path.rglob does not follow the links of a checkout's src/arvbench, so start behind them.
        start = (package / folder).resolve()
        measuring = [path for path in start.rglob("*") if path.suffix in _MEASURING_SUFFIXES]
        files += [(f"{folder}/{path.relative_to(start)}", path) for path in measuring]
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
