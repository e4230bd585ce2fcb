"""Training of the digit classifier behind the extractor `digits-cnn`, seeded and on the CPU."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.checkpoints import sha256_of
from arvbench.disk import save_tensors
from arvbench.harness.data.digits import IMAGE_PX, Digits, load_digits_rgb
from arvbench.harness.quality.extractors.digits_cnn import WEIGHTS_FILE, DigitsCnn
from arvbench.harness.quality.reference.digits import REFERENCE_FILE, digits_statistics, save_digits_statistics
from arvbench.harness.training import Progress, Training
from arvbench.harness.training.reproducible import provenance, reproducible

RECORD_FILE = "digits-cnn.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """Hyperparameters of the classifier's training; part of the record."""

    seed: int = 0
    epochs: int = 40
    batch: int = 64
    learning_rate: float = 4e-3
    """Peak of a one-cycle cosine schedule (AdamW)."""
    weight_decay: float = 1e-2
    max_shift_px: float = 2.5
    max_rotation_deg: float = 12.0
    max_zoom: float = 0.15
    """The scale is drawn from 1 - max_zoom .. 1 + max_zoom."""
    max_noise: float = 0.1
    """The standard deviation of added noise is drawn from 0 .. max_noise per image (image range is 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedClassifier:
    """Result of a training."""

    model: DigitsCnn
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""


def train_classifier(
    train: Digits,
    settings: ClassifierSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> TrainedClassifier:
    """Train from scratch; equal settings, device and library versions give equal weights.

    All randomness is drawn on the CPU from the seed. One thread is used: the order of a parallel sum affects the
    result.
    """
    noise, images = torch.Generator().manual_seed(settings.seed), len(train.labels_N)
    with reproducible(settings.seed):
        model = DigitsCnn().to(device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            settings.learning_rate,
            epochs=settings.epochs,
            steps_per_epoch=math.ceil(images / settings.batch),
        )
        model.train()
        losses: list[float] = []
        for epoch in range(settings.epochs):
            total = 0.0
            for rows in torch.randperm(images, generator=noise).split(settings.batch):
                batch = augment(train.images_N3HW[rows], settings, noise).to(device)
                _, logits = model.classify(batch)
                loss = F.cross_entropy(logits, train.labels_N[rows].to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(rows)
            losses.append(total / images)
            if progress is not None:
                progress(epoch + 1, settings.epochs, {"loss": losses[-1]})
    return TrainedClassifier(model=model.eval().cpu(), losses=tuple(losses))


def augment(images_N3HW: Tensor, settings: ClassifierSettings, noise: torch.Generator) -> Tensor:
    """Return float images in [-1, 1], each randomly shifted, rotated, scaled and made noisy; black outside."""
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
    """Return the fraction of images whose most likely class is their label, 0..1."""
    _, logits = model(digits.images_N3HW)
    return float((logits.argmax(dim=1) == digits.labels_N).double().mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierTraining(Training):
    """Training of the digit classifier, whose features also give the statistics of the digits."""

    name: str = "digits-cnn"
    settings: ClassifierSettings = field(default_factory=ClassifierSettings)

    def run(
        self, out_dir: Path, *, device: torch.device | str = "cpu", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Train on the train split, and write weights, statistics of all digits and the record into `out_dir`.

        Files: digits-cnn.safetensors, digits-reference.safetensors, digits-cnn.json.
        """
        out_dir.mkdir(parents=True, exist_ok=True)
        digits = load_digits_rgb()
        train, held_out = digits.split("train"), digits.split("held-out")
        started = time.perf_counter()
        trained = train_classifier(train, self.settings, device=device, progress=progress)
        wall_s = time.perf_counter() - started

        weights, statistics = out_dir / WEIGHTS_FILE, out_dir / REFERENCE_FILE
        save_tensors(trained.model.state_dict(), weights)
        save_digits_statistics(digits_statistics(trained.model, digits, sha256_of(weights)), statistics)
        record = {
            "name": self.name,
            "data": "scikit-learn load_digits as 32 x 32 RGB",
            "settings": asdict(self.settings),
            "losses": list(trained.losses),
            "train_images": len(train.labels_N),
            "train_accuracy": accuracy(trained.model, train),
            "held_out_images": len(held_out.labels_N),
            "held_out_accuracy": accuracy(trained.model, held_out),
            "device": str(device),
            "wall_s": wall_s,
            **provenance(weights, statistics),
        }
        (out_dir / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
        return record
