"""Training of the digit classifier behind the extractor `digits-cnn`, seeded and on the CPU."""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from arvbench.adapters.checkpoints import sha256_of
from arvbench.harness.data.digits import IMAGE_PX, Digits, load_digits_rgb
from arvbench.harness.quality.extractors.digits_cnn import WEIGHTS_FILE, DigitsCnn
from arvbench.harness.quality.reference.digits import REFERENCE_FILE, reference_statistics, save_reference
from arvbench.harness.training import Progress
from arvbench.harness.training.reproducible import reproducible

RECORD_FILE = "digits-cnn.json"


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
