"""A stand-in for `adm-inception`, small enough to run on every image of a test, and files like the official ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.harness.quality.extractors.extractor import Extractor

DIMS = {"pool": 2048, "spatial": 2023, "logits": 1008}


def fake_adm(seed: int = 0, *, name: str = "adm-inception", note: str = "") -> Extractor:
    """Return a random projection of 8 x 8 averages, then tanh; `images` of its network counts those it has seen."""
    random = torch.Generator().manual_seed(seed)
    weight_DP = torch.randn(sum(DIMS.values()), 3 * 8 * 8, generator=random) / 8

    class Network:
        images = 0

        def __call__(self, images_B3HW: Tensor) -> Mapping[str, Tensor]:
            self.images += len(images_B3HW)
            pooled_BP = F.adaptive_avg_pool2d(images_B3HW.float() / 127.5 - 1, 8).flatten(1)
            parts = torch.tanh(pooled_BP @ weight_DP.T).split(list(DIMS.values()), dim=1)
            return dict(zip(DIMS, parts, strict=True))

    return Extractor(
        name=name,
        network=Network(),
        layers=DIMS,
        device=torch.device("cpu"),
        sha256=f"{seed:064x}",
        preprocessing="8 x 8 averages",
        note=note,
    )


def official_arrays(extractor: Extractor, all_images_N3HW: Tensor, kept: int) -> dict[str, np.ndarray]:
    """Return arrays as in the ADM evaluator's references: statistics of all images, and the first `kept` images."""
    features = extractor.extract(all_images_N3HW, ["pool", "spatial"])
    pool, spatial = features["pool"].numpy(), features["spatial"].numpy()
    return {
        "arr_0": all_images_N3HW[:kept].permute(0, 2, 3, 1).numpy(),
        "mu": pool.mean(axis=0),
        "sigma": np.cov(pool, rowvar=False),
        "mu_s": spatial.mean(axis=0),
        "sigma_s": np.cov(spatial, rowvar=False),
    }


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)
    return path
