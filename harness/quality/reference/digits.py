"""Statistics of the data set "digits" under the package's own classifier: computed, stored and read.

Shapes   N = 1,797 images, D = 64 features
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arvbench.disk import save_tensors
from arvbench.errors import CheckpointError, ContractError
from arvbench.harness.data.digits import Digits
from arvbench.harness.quality.extractors.digits_cnn import DATA, FEATURES, NAME, REMAKE, DigitsCnn
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.sets import FeatureSet, StoredStatistics
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.metrics.moments import Moments

REFERENCE_FILE = "digits-reference.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsStatistics:
    """Features of the real scans under the classifier, and their moments."""

    features_ND: Tensor
    """(N, 64) fp32."""
    mu_D: Tensor
    """(64,) fp64: mean of the features."""
    sigma_DD: Tensor
    """(64, 64) fp64: covariance of the features, N - 1 in the denominator."""
    labels_N: Tensor
    """(N,) int64."""
    images_sha256: str
    extractor_sha256: str
    """Digest of the classifier's weights file."""


@torch.no_grad()
def digits_statistics(model: DigitsCnn, digits: Digits, extractor_sha256: str) -> DigitsStatistics:
    """Compute the features of all images, and their moments."""
    features_ND = torch.cat([model(batch)[0] for batch in digits.images_N3HW.split(256)])
    features = features_ND.double().numpy()
    return DigitsStatistics(
        features_ND=features_ND,
        mu_D=torch.from_numpy(features.mean(axis=0)),
        sigma_DD=torch.from_numpy(np.cov(features, rowvar=False)),
        labels_N=digits.labels_N,
        images_sha256=images_sha256(digits.images_N3HW),
        extractor_sha256=extractor_sha256,
    )


def save_digits_statistics(statistics: DigitsStatistics, path: Path) -> None:
    """Write the statistics; equal statistics give equal bytes."""
    identity = {"extractor_sha256": statistics.extractor_sha256, "images_sha256": statistics.images_sha256}
    tensors = {
        "features": statistics.features_ND,
        "mu": statistics.mu_D,
        "sigma": statistics.sigma_DD,
        "labels": statistics.labels_N,
    }
    # One metadata entry: the order of several is not fixed, and the file's digest is recorded.
    save_tensors(tensors, path, metadata={"identity": json.dumps(identity, sort_keys=True)})


def load_digits_statistics(path: Path = DATA / REFERENCE_FILE) -> DigitsStatistics:
    """Read statistics written by `save_digits_statistics`. Raises CheckpointError for another file."""
    try:
        with safe_open(path, framework="pt") as stored:
            identity = json.loads(stored.metadata()["identity"])
            tensors = {name: stored.get_tensor(name) for name in ("features", "mu", "sigma", "labels")}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no statistics of the digits: {error}. {REMAKE}") from error
    return DigitsStatistics(
        features_ND=tensors["features"],
        mu_D=tensors["mu"],
        sigma_DD=tensors["sigma"],
        labels_N=tensors["labels"],
        **identity,
    )


def stored_digits(extractor: Extractor, layers: Collection[str]) -> StoredStatistics | None:
    """Return the packaged statistics of layer "64" of `digits-cnn`; None for other extractors and layers.

    Raises ContractError when they were made with weights other than those of `extractor`.
    """
    if extractor.name != NAME or not set(layers) <= {FEATURES}:
        return None
    stored = load_digits_statistics()
    if stored.extractor_sha256 != extractor.sha256:
        raise ContractError(
            f"the stored statistics of the digits were made with other weights ({stored.extractor_sha256[:12]}) than "
            f"those of {extractor.name} ({extractor.sha256[:12]}); `arvbench train digits-cnn` makes both"
        )
    moments = Moments(count=len(stored.features_ND), mean_D=stored.mu_D, cov_DD=stored.sigma_DD)
    return StoredStatistics({FEATURES: moments}, FeatureSet.of({FEATURES: stored.features_ND}), name="digits")
