"""Extractor `digits-cnn`: a small digit classifier whose weights are part of the package.

It measures quality without a download; arvbench.harness.training.classifier trains it in about a minute. Its numbers
compare demo models with one another, and with nothing published.

Shapes   N images, D = 64 features
Range    images uint8 0..255 (N, 3, 32, 32); features >= 0; logits natural-log
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.checkpoints import load_strict, read_tensors, sha256_of
from arvbench.errors import CheckpointError
from arvbench.harness.data.digits import IMAGE_PX, NUM_CLASSES
from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles

NAME = "digits-cnn"
DIMS = 64
DATA = Path(__file__).parent.parent / "data"
WEIGHTS_FILE = "digits-cnn.safetensors"
REMAKE = "`arvbench train digits-cnn` makes it again"
FEATURES, LOGITS = str(DIMS), "logits"


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
        """Return features and logits of float images in [-1, 1]."""
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x_N3HW = F.relu(norm(conv(x_N3HW)))
            if index < len(self.convs) - 1:
                x_N3HW = _halved(x_N3HW)
        features_ND = x_N3HW.mean(dim=(2, 3))
        return features_ND, self.head(features_ND)


def _halved(x_NCHW: Tensor) -> Tensor:
    """Return the largest of every 2 x 2 pixels."""
    if x_NCHW.requires_grad:
        return F.max_pool2d(x_NCHW, 2)  # whose gradient goes to one of equal pixels: training repeats it
    # The same bits, in a fifth of the time on a CPU.
    rows_NCHW = torch.maximum(x_NCHW[..., ::2, :], x_NCHW[..., 1::2, :])
    return torch.maximum(rows_NCHW[..., ::2], rows_NCHW[..., 1::2])


def load_classifier(path: Path = DATA / WEIGHTS_FILE) -> DigitsCnn:
    """Return the trained classifier in evaluation mode. Raises CheckpointError for another file."""
    model = DigitsCnn()
    try:
        load_strict(model, read_tensors(path), source=str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {REMAKE}") from error
    return model.eval().requires_grad_(False)


def load(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Load the packaged weights. Raises CheckpointError when they are damaged."""
    classifier = load_classifier(DATA / WEIGHTS_FILE).to(device)

    def features(images_B3HW: Tensor) -> dict[str, Tensor]:
        features_BD, logits_BC = classifier(images_B3HW)
        return {FEATURES: features_BD, LOGITS: logits_BC}

    return Extractor(
        name=NAME,
        image_s=0.0004,
        network=features,
        layers={FEATURES: DIMS, LOGITS: NUM_CLASSES},
        device=device,
        sha256=sha256_of(DATA / WEIGHTS_FILE),
        preprocessing="no resize; x / 127.5 - 1",
        batch=256,
        image_px=IMAGE_PX,
        classes=NUM_CLASSES,
    )
