"""Recognition of TorchScript archives, and the rule by which they may be opened.

A TorchScript archive is a program. Loading it runs its code, which can write files (`torch.save` is one of its
operations). Only the published file is opened, by its sha256, or one whose sha256 the user vouches for in
ARVBENCH_TRUSTED_TORCHSCRIPT.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from arvbench.errors import CheckpointError
from arvbench.harness.quality.extractors.weights import ExtractorWeights

TRUST_VARIABLE = "ARVBENCH_TRUSTED_TORCHSCRIPT"


def is_torchscript(path: Path) -> bool:
    """Return True for a TorchScript archive; False for other files, also for the zip archives of `torch.save`."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from error


def check_program(path: Path, sha256: str, weights: ExtractorWeights, instead: str = "") -> None:
    """Raise CheckpointError unless the archive at `path`, of digest `sha256`, is published or vouched for."""
    if weights.is_published(sha256) or os.environ.get(TRUST_VARIABLE) == sha256:
        return
    raise CheckpointError(
        f"{path} is a TorchScript archive, a program that could do more than compute, and not the published "
        f"{weights.file_name} (sha256 {weights.sha256}); fetch that from {weights.url}{instead}, or, if you made the "
        f"file yourself, set {TRUST_VARIABLE}={sha256}"
    )


def read_program_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an archive that passed `check_program`, on the CPU."""
    with opening(path):
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn torch's errors about an archive into CheckpointError, and silence its deprecation notice."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, AttributeError, ValueError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged, truncated or another network: {first_line[:300]}") from error
