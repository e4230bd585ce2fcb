"""Extractor `adm-inception`: the features of OpenAI's ADM evaluator, without TensorFlow.

Layers   "pool" 2048 (pool_3), "spatial" 2023 (the first 7 channels of mixed_6/conv in NHWC order), "logits" 1008
         (pool @ softmax weights, no bias)
"""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.extractors.inception.graph import IMAGE_PX, LAYERS
from arvbench.harness.quality.extractors.inception.network import Inception
from arvbench.harness.quality.extractors.inception.tf1_resize import resize_tf1
from arvbench.harness.quality.extractors.inception.weights import PREPROCESSING, load_inception_weights

NAME = "adm-inception"


def load(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Load the `inception` weights. Raises UserError without them, CheckpointError for bad ones."""
    weights = load_inception_weights(extractor_files)
    network = Inception(weights.tensors, device)

    def features(images_B3HW: Tensor) -> dict[str, Tensor]:
        return network(scaled(images_B3HW))

    return Extractor(
        name=NAME,
        image_s=0.16,
        network=features,
        layers=LAYERS,
        device=device,
        sha256=weights.sha256,
        preprocessing=PREPROCESSING,
        note=weights.note,
    )


def scaled(images_B3HW: Tensor) -> Tensor:
    """Return the network's input, fp32 (B, 3, 299, 299) in [-1, 1), for uint8 images (B, 3, H, W)."""
    return resize_tf1(images_B3HW, IMAGE_PX).sub_(128).mul_(0.0078125)
