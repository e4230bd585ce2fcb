"""Extractor `fidelity-inception`: torch-fidelity's own InceptionV3 of 2015-12-05, as that library runs it.

torch-fidelity unpickles weights, which can run code, and downloads missing ones without asking. Here the user's file is
read as tensors only, and torch-fidelity gets a copy written by this process.
"""

from __future__ import annotations

import io

import torch
from torch import Tensor

from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.extractors.inception.weights import PREPROCESSING, load_inception_weights

NAME = "fidelity-inception"
FIDELITY_NAME = "inception-v3-compat"
LAYERS = {"2048": 2048, "logits_unbiased": 1008}


def load(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Load the `inception` weights. Raises UserError without them, CheckpointError for bad ones."""
    from torch_fidelity.utils import create_feature_extractor

    weights = load_inception_weights(extractor_files)
    own_copy = io.BytesIO()
    torch.save(weights.tensors, own_copy)
    own_copy.seek(0)
    module = create_feature_extractor(
        FIDELITY_NAME, list(LAYERS), cuda=False, verbose=False, feature_extractor_weights_path=own_copy
    ).to(device)

    def features(images_B3HW: Tensor) -> dict[str, Tensor]:
        return dict(zip(LAYERS, module(images_B3HW), strict=True))

    return Extractor(
        name=NAME,
        image_s=0.29,
        network=features,
        layers=LAYERS,
        device=device,
        sha256=weights.sha256,
        preprocessing=PREPROCESSING,
        note=weights.note,
    )
