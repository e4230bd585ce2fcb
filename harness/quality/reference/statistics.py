"""Reader of files of means and covariances: the layout of the ADM evaluator's references, and our additions to it.

Keys     mu (2048,), sigma (2048, 2048)       pooled Inception features
         mu_s (2023,), sigma_s (2023, 2023)   spatial Inception features
         arr_0 uint8 (M, H, W, 3)             images in the order of their source; read by images/npz.py
         labels (M,) integers
         moments/EXTRACTOR/LAYER/{mean,cov}   float64, of all images that the file was made from
         features/EXTRACTOR/LAYER             (M, D) float32, of the images in arr_0
         digests (N, 8) uint8                 first bytes of the sha256 of all images that the file was made from
         arvbench                             uint8 bytes of JSON: provenance (images/stored.py) and `ReferenceRecord`
Source   openai/guided-diffusion, evaluations/evaluator.py

Shapes   M images in the file, N behind its statistics, D features of a layer
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.identity import SHORT_DIGEST
from arvbench.harness.quality.images.npy_members import (
    ArrayMember,
    array_keys,
    find_array,
    read_array,
    read_bytes,
    readable,
)
from arvbench.harness.quality.images.stored import MAX_PROVENANCE_BYTES, PROVENANCE_KEY
from arvbench.harness.quality.metrics.moments import Moments
from arvbench.harness.quality.reference.reference_set import Use

ADM_EXTRACTOR = "adm-inception"
ADM_LAYERS = {"pool": ("mu", "sigma", 2048), "spatial": ("mu_s", "sigma_s", 2023)}
"""Layer of `adm-inception` -> keys of its mean and covariance, D."""
READERS = {ADM_EXTRACTOR, "fidelity-inception-adm"}
"""Extractors that are compared with those means and covariances, whichever made them."""
IMAGES_KEY = "arr_0"
DIGESTS_KEY = "digests"
RECORD_KEY = "reference"
"""Key of `ReferenceRecord` in the JSON under `arvbench`."""
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_ASYMMETRY = 1e-5
"""Largest difference between a covariance and its transpose, relative to the largest entry: float32 rounding."""


def moment_keys(extractor: str, layer: str) -> tuple[str, str]:
    """Return the keys of a layer's mean and covariance."""
    if extractor in READERS and layer in ADM_LAYERS:
        return ADM_LAYERS[layer][:2]
    return f"moments/{extractor}/{layer}/mean", f"moments/{extractor}/{layer}/cov"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExtractorRecord(_Record):
    """Network behind the statistics of a file."""

    sha256: str
    preprocessing: str
    batch: int
    layers: dict[str, int]
    """Layer -> D."""


class ReferenceRecord(_Record):
    """Origin of a file of `arvbench reference make`."""

    version: Literal[1] = 1
    """1: first. Raise it when a field changes its meaning, and say so here."""
    images: int = Field(ge=2)
    """Images behind means and covariances."""
    kept: int = Field(ge=0)
    """Images in the file."""
    keep_seed: int
    """Seed of the choice of the kept images."""
    images_sha256: str
    """Digest of all images, in order."""
    image_shape: tuple[int, int]
    use: Use
    protocols: tuple[str, ...]
    extractors: dict[str, ExtractorRecord]
    versions: dict[str, str]
    """Distribution -> version."""


def holds_statistics(path: Path) -> bool:
    """Return True for an .npz with means and covariances."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    with readable(path), zipfile.ZipFile(path) as archive:
        keys = array_keys(archive)
    return any(key in ("mu", "sigma") or key.startswith("moments/") for key in keys)


class StatisticsFile:
    """A file of statistics, checked when it is opened. Pickles in it are refused, never loaded.

    Raises UserError, naming the file and the key, for arrays that are missing, misshapen, not finite or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path), zipfile.ZipFile(path) as archive:
            self._keys = frozenset(array_keys(archive))
        self.has_images = IMAGES_KEY in self._keys
        self.record = self._read_record()
        for keys in ADM_LAYERS.values():
            self._check_pair(*keys)

    def check_extractor(self, extractor: Extractor) -> None:
        """Raise UserError when the file was made with weights or preprocessing other than those of `extractor`."""
        recorded = self.record.extractors.get(extractor.name) if self.record else None
        if recorded is None:
            return
        if recorded.sha256 != extractor.sha256:
            raise UserError(
                f"{self.path} was made with other weights of {extractor.name} (sha256 {recorded.sha256[:12]}...) than "
                f"are loaded (sha256 {extractor.sha256[:12]}...): give those weights, or make the reference again"
            )
        if recorded.preprocessing != extractor.preprocessing:
            raise UserError(
                f"{self.path} was made with other preprocessing of {extractor.name} ({recorded.preprocessing!r}) than "
                f"that of this version ({extractor.preprocessing!r}): make the reference again"
            )

    def moments(self, extractor: Extractor, layers: Collection[str]) -> dict[str, Moments]:
        """Return mean and covariance of those `layers` that are stored."""
        moments = {}
        for layer in layers:
            mean_key, cov_key = moment_keys(extractor.name, layer)
            if {mean_key, cov_key} <= self._keys:
                moments[layer] = self._read_moments(mean_key, cov_key, dims=extractor.layers[layer])
            elif extractor.name == ADM_EXTRACTOR and layer in ADM_LAYERS and "mu" in self._keys:
                raise UserError(
                    f"{self.path} has mu and sigma, and no {mean_key} and {cov_key}: sFID needs a reference with them"
                )
        return moments

    def features(self, extractor: Extractor, layers: Collection[str], count: int) -> dict[str, Tensor]:
        """Return features (M, D) fp32 of those `layers` that are stored; M is `count`."""
        keys = {layer: f"features/{extractor.name}/{layer}" for layer in layers}
        return {
            layer: self._read_features(key, (count, extractor.layers[layer]))
            for layer, key in keys.items()
            if key in self._keys
        }

    def digests(self) -> Tensor | None:
        """Return (N, 8) uint8 of the images behind the statistics; None when the file does not hold them."""
        if self.record is None or DIGESTS_KEY not in self._keys:
            return None
        member, expected = self._member(DIGESTS_KEY), (self.record.images, SHORT_DIGEST)
        if member.shape != expected or member.dtype != np.uint8:
            raise UserError(
                f"{self.path}: {DIGESTS_KEY} is {member.dtype} {member.shape}, expected uint8 {expected}: the file is "
                "damaged"
            )
        return torch.from_numpy(self._read(member))

    def _check_pair(self, mean_key: str, cov_key: str, dims: int) -> None:
        """Raise UserError unless both keys or none exist, with the right shape and type; values are checked later."""
        present = {key for key in (mean_key, cov_key) if key in self._keys}
        if not present:
            return
        if len(present) == 1:
            raise UserError(
                f"{self.path} has {present.pop()} without its partner ({mean_key} and {cov_key} belong together)"
            )
        for key, expected in ((mean_key, (dims,)), (cov_key, (dims, dims))):
            self._checked(key, expected)

    def _read_moments(self, mean_key: str, cov_key: str, *, dims: int) -> Moments:
        members = self._checked(mean_key, (dims,)), self._checked(cov_key, (dims, dims))
        mean_D, cov_DD = (self._read(member).astype(np.float64) for member in members)
        if np.abs(cov_DD - cov_DD.T).max() > _ASYMMETRY * np.abs(cov_DD).max():
            raise UserError(f"{self.path}: {cov_key} is not symmetric: it is not a covariance")
        if cov_DD.diagonal().min() < 0:
            raise UserError(f"{self.path}: {cov_key} has negative variances: it is not a covariance")
        return Moments(
            count=self.record.images if self.record else None,
            mean_D=torch.from_numpy(mean_D),
            cov_DD=torch.from_numpy(cov_DD),
        )

    def _read_features(self, key: str, expected: tuple[int, int]) -> Tensor:
        member = self._member(key)
        if member.shape != expected or member.dtype != np.float32:
            raise UserError(
                f"{self.path}: {key} is {member.dtype} {member.shape}, expected float32 {expected}: the file is damaged"
            )
        return torch.from_numpy(self._read(member))

    def _read_record(self) -> ReferenceRecord | None:
        if PROVENANCE_KEY not in self._keys:
            return None
        where = f"{self.path}: {PROVENANCE_KEY}"
        with readable(self.path), zipfile.ZipFile(self.path) as archive:
            text = read_bytes(self.path, archive, PROVENANCE_KEY, at_most=MAX_PROVENANCE_BYTES)
        try:
            content = json.loads(text)
            return ReferenceRecord.model_validate(content[RECORD_KEY]) if RECORD_KEY in content else None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(f"{where} is not a record that this version reads: {field}: {first['msg']}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{where} was not written by arvbench: {error}") from error

    def _member(self, key: str) -> ArrayMember:
        with readable(self.path), zipfile.ZipFile(self.path) as archive:
            return find_array(self.path, archive, key)

    def _checked(self, key: str, expected: tuple[int, ...]) -> ArrayMember:
        """Return an array of floats whose header has the expected shape."""
        member, where = self._member(key), f"{self.path}: {key}"
        if member.shape != expected:
            meant = "; mu and sigma are of Inception's 2048 pooled features" if key in ("mu", "sigma") else ""
            raise UserError(f"{where} has shape {member.shape}, expected {expected}{meant}")
        if member.dtype not in _FLOATS:
            raise UserError(f"{where} is {member.dtype}, expected float32 or float64")
        return member

    def _read(self, member: ArrayMember) -> np.ndarray:
        """Read a whole array with a checked header. Raises UserError for NaN and infinity."""
        with readable(self.path), zipfile.ZipFile(self.path) as archive:
            array = read_array(archive, member)
        if not np.isfinite(array).all():
            key = member.name.removesuffix(".npy")
            raise UserError(f"{self.path}: {key} holds NaN or infinite values: the file is damaged")
        return array
