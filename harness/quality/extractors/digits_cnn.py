"""The offline extractor `digits-cnn`: the digit classifier of this package, with weights that are part of it."""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.adapters.checkpoints import sha256_of
from arvbench.harness.digits import IMAGE_PX, NUM_CLASSES
from arvbench.harness.quality.classifier import DATA, DIMS, WEIGHTS_FILE, load_classifier
from arvbench.harness.quality.extractors.base import Extractor, WeightFiles

NAME = "digits-cnn"
FEATURES, LOGITS = str(DIMS), "logits"


def load(_weight_files: WeightFiles, device: torch.device) -> Extractor:
    """Return the extractor; it needs no file of the user's. Raises CheckpointError when its own is damaged."""
    classifier = load_classifier(DATA / WEIGHTS_FILE).to(device)

    def features(images_B3HW: Tensor) -> dict[str, Tensor]:
        features_BD, logits_BC = classifier(images_B3HW)
        return {FEATURES: features_BD, LOGITS: logits_BC}

    return Extractor(
        name=NAME,
        network=features,
        layers={FEATURES: DIMS, LOGITS: NUM_CLASSES},
        device=device,
        sha256=sha256_of(DATA / WEIGHTS_FILE),
        preprocessing="no resize; x / 127.5 - 1",
        batch=256,
        image_px=IMAGE_PX,
        classes=NUM_CLASSES,
    )
