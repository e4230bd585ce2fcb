"""The digit classifier that serves as offline feature extractor `digits-cnn`, and its training.

Small enough to be part of the package and trained in about a minute, so that quality is measured without a download.
Its numbers compare models of the demo; they are comparable with nothing published.

Shapes   N images, D = 64 features
Range    images uint8 0..255 (N, 3, 32, 32); features >= 0; logits natural-log
"""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from arvbench.adapters.checkpoints import load_strict, read_tensors, sha256_of
from arvbench.errors import CheckpointError
from arvbench.harness.digits import IMAGE_PX, NUM_CLASSES, Digits, load_digits_rgb
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.training import Progress
from arvbench.harness.training.reproducible import reproducible

DIMS = 64
DATA = Path(__file__).parent / "data"
WEIGHTS_FILE = "digits-cnn.safetensors"
REFERENCE_FILE = "digits-reference.safetensors"
RECORD_FILE = "digits-cnn.json"
_REMAKE = "`arvbench train digits-cnn` makes it again"


class DigitsCnn(nn.Module):
    """Four 3 x 3 convolutions with batch normalisation, average pooling, one linear layer; 61,338 parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, DIMS)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.head = nn.Linear(DIMS, NUM_CLASSES)

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and logits (N, 10), fp32, of uint8 images (N, 3, 32, 32)."""
        return self.classify(images_N3HW.float() / 127.5 - 1)

    def classify(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Same for images that are already float in [-1, 1]."""
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x_N3HW = F.relu(norm(conv(x_N3HW)))
            if index < len(self.convs) - 1:
                x_N3HW = F.max_pool2d(x_N3HW, 2)
        features_ND = x_N3HW.mean(dim=(2, 3))
        return features_ND, self.head(features_ND)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How the classifier is trained; part of its record."""

    seed: int = 0
    epochs: int = 40
    batch: int = 64
    learning_rate: float = 4e-3
    """Peak of a one-cycle cosine schedule (AdamW)."""
    weight_decay: float = 1e-2
    max_shift_px: float = 2.5
    max_rotation_deg: float = 12.0
    max_zoom: float = 0.15
    """Scale is drawn from 1 - max_zoom .. 1 + max_zoom."""
    max_noise: float = 0.1
    """Standard deviation of added noise is drawn from 0 .. max_noise per image (image range is 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    model: DigitsCnn
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""


def train_classifier(
    train: Digits,
    settings: TrainingSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Trained:
    """Train from scratch; same settings, device and library give the same weights.

    All randomness is drawn on the CPU from the seed. One thread, because the order of a parallel sum is part of the
    result.
    """
    noise = torch.Generator().manual_seed(settings.seed)
    with reproducible(settings.seed):
        model = DigitsCnn().to(device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
        )
        steps_per_epoch = math.ceil(len(train.labels_N) / settings.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=steps_per_epoch
        )
        losses: list[float] = []
        for epoch in range(settings.epochs):
            losses.append(_train_epoch(model, train, settings, noise, optimizer, schedule))
            if progress is not None:
                progress(epoch + 1, settings.epochs, {"loss": losses[-1]})
    return Trained(model=model.eval().cpu(), losses=tuple(losses))


def _train_epoch(
    model: DigitsCnn,
    train: Digits,
    settings: TrainingSettings,
    noise: torch.Generator,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Return the mean loss of one pass over the images in a new order."""
    device = model.head.weight.device
    model.train()
    total = 0.0
    for rows in torch.randperm(len(train.labels_N), generator=noise).split(settings.batch):
        images = augment(train.images_N3HW[rows], settings, noise).to(device)
        labels = train.labels_N[rows].to(device)
        _, logits = model.classify(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(rows)
    return total / len(train.labels_N)


def augment(images_N3HW: Tensor, settings: TrainingSettings, noise: torch.Generator) -> Tensor:
    """Return float images in [-1, 1], each shifted, rotated, scaled and made noisy at random; black outside."""
    count = len(images_N3HW)

    def draw(limit: float) -> Tensor:
        return (torch.rand(count, generator=noise) * 2 - 1) * limit

    angle, zoom = draw(math.radians(settings.max_rotation_deg)), 1 + draw(settings.max_zoom)
    shift_x, shift_y = draw(settings.max_shift_px * 2 / IMAGE_PX), draw(settings.max_shift_px * 2 / IMAGE_PX)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    affine_N23 = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).view(count, 2, 3)
    grid = F.affine_grid(affine_N23, list(images_N3HW.shape), align_corners=False)
    moved = F.grid_sample(images_N3HW.float() / 255, grid, mode="bilinear", align_corners=False) * 2 - 1
    level_N111 = torch.rand(count, 1, 1, 1, generator=noise) * settings.max_noise
    return (moved + level_N111 * torch.randn(moved.shape, generator=noise)).clamp(-1, 1)


@torch.no_grad()
def accuracy(model: DigitsCnn, digits: Digits) -> float:
    """Share of images whose most likely class is their label, 0..1."""
    _, logits = model(digits.images_N3HW)
    return float((logits.argmax(dim=1) == digits.labels_N).double().mean())


def load_classifier(path: Path = DATA / WEIGHTS_FILE) -> DigitsCnn:
    """Return the trained classifier in evaluation mode. Raises CheckpointError for another file."""
    model = DigitsCnn()
    try:
        load_strict(model, read_tensors(path), source=str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_REMAKE}") from error
    return model.eval().requires_grad_(False)


# ---- reference statistics ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceStatistics:
    """What the classifier says about the 1,797 real scans."""

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
    """Digest of the weights file that computed the features."""


@torch.no_grad()
def reference_statistics(model: DigitsCnn, digits: Digits, extractor_sha256: str) -> ReferenceStatistics:
    """Return features of all images and their moments."""
    features_ND = torch.cat([model(batch)[0] for batch in digits.images_N3HW.split(256)])
    features = features_ND.double().numpy()
    return ReferenceStatistics(
        features_ND=features_ND,
        mu_D=torch.from_numpy(features.mean(axis=0)),
        sigma_DD=torch.from_numpy(np.cov(features, rowvar=False)),
        labels_N=digits.labels_N,
        images_sha256=images_sha256(digits.images_N3HW),
        extractor_sha256=extractor_sha256,
    )


def save_reference(statistics: ReferenceStatistics, path: Path) -> None:
    """Write the statistics; the same statistics give the same bytes."""
    identity = {"extractor_sha256": statistics.extractor_sha256, "images_sha256": statistics.images_sha256}
    tensors = {
        "features": statistics.features_ND,
        "mu": statistics.mu_D,
        "sigma": statistics.sigma_DD,
        "labels": statistics.labels_N,
    }
    # One metadata entry: the order of several is not fixed, and the file's digest is recorded.
    save_file(tensors, path, metadata={"identity": json.dumps(identity, sort_keys=True)})


def load_reference(path: Path = DATA / REFERENCE_FILE) -> ReferenceStatistics:
    """Read statistics written by `save_reference`. Raises CheckpointError for another file."""
    try:
        with safe_open(path, framework="pt") as stored:
            identity = json.loads(stored.metadata()["identity"])
            tensors = {name: stored.get_tensor(name) for name in ("features", "mu", "sigma", "labels")}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no statistics of the digits: {error}. {_REMAKE}") from error
    return ReferenceStatistics(
        features_ND=tensors["features"],
        mu_D=tensors["mu"],
        sigma_DD=tensors["sigma"],
        labels_N=tensors["labels"],
        **identity,
    )


def train_digits_cnn(
    out_dir: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    settings: TrainingSettings | None = None,
) -> dict[str, Any]:
    """Train on the train split, write weights, reference statistics and the record into `out_dir`; return the record.

    Files: digits-cnn.safetensors, digits-reference.safetensors, digits-cnn.json.
    """
    settings = settings or TrainingSettings()
    out_dir.mkdir(parents=True, exist_ok=True)
    digits = load_digits_rgb()
    started = time.perf_counter()
    trained = train_classifier(digits.split("train"), settings, device=device, progress=progress)
    wall_s = time.perf_counter() - started

    weights_path, reference_path = out_dir / WEIGHTS_FILE, out_dir / REFERENCE_FILE
    save_file({name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()}, weights_path)
    save_reference(reference_statistics(trained.model, digits, sha256_of(weights_path)), reference_path)
    record = {
        "name": "digits-cnn",
        "data": "scikit-learn load_digits as 32 x 32 RGB",
        "settings": asdict(settings),
        "losses": list(trained.losses),
        "train_images": len(digits.split("train").labels_N),
        "train_accuracy": accuracy(trained.model, digits.split("train")),
        "held_out_images": len(digits.split("held-out").labels_N),
        "held_out_accuracy": accuracy(trained.model, digits.split("held-out")),
        "device": str(device),
        "wall_s": wall_s,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("torch", "numpy", "scikit-learn", "safetensors")},
        "sha256": {path.name: sha256_of(path) for path in (weights_path, reference_path)},
    }
    (out_dir / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
    return record
