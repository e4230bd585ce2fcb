"""Extractor `fidelity-inception`: torch-fidelity's own InceptionV3 of 2015-12-05, as that library runs it.

`fidelity-inception-adm` is the same network for comparison with the ADM evaluator's statistics, whose layers have its
names.

torch-fidelity unpickles weights, which can run code, and downloads missing ones without asking. Here the user's file is
read as tensors only, and torch-fidelity gets a copy written by this process.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor

from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.extractors.inception.weights import PREPROCESSING, load_inception_weights

NAME, ADM_NAME = "fidelity-inception", "fidelity-inception-adm"
FIDELITY_NAME = "inception-v3-compat"
LAYERS = {"2048": 2048, "logits_unbiased": 1008}
ADM_LAYERS = {"pool": 2048, "logits_unbiased": 1008}
"""Layers under the ADM evaluator's names, in the order of LAYERS."""


def load(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Load the `inception` weights. Raises UserError without them, CheckpointError for bad ones."""
    return _load(NAME, LAYERS, extractor_files, device)


def load_adm(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Load the same network under the ADM evaluator's names of layers; errors as `load`."""
    return _load(ADM_NAME, ADM_LAYERS, extractor_files, device)


def _load(name: str, layers: Mapping[str, int], extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    from torch_fidelity.utils import create_feature_extractor

    weights = load_inception_weights(extractor_files)
    own_copy = io.BytesIO()
    torch.save(weights.tensors, own_copy)
    own_copy.seek(0)
    module = create_feature_extractor(
        FIDELITY_NAME, list(LAYERS), cuda=False, verbose=False, feature_extractor_weights_path=own_copy
    ).to(device)

    def features(images_B3HW: Tensor) -> dict[str, Tensor]:
        return dict(zip(layers, module(images_B3HW), strict=True))

    return Extractor(
        name=name,
        image_s=0.29,
        network=features,
        layers=layers,
        device=device,
        sha256=weights.sha256,
        preprocessing=PREPROCESSING,
        note=weights.note,
    )
