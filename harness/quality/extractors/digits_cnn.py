"""The offline extractor `digits-cnn`: the digit classifier of this package behind torch-fidelity's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from arvbench.adapters.checkpoints import sha256_of
from arvbench.harness.digits import IMAGE_PX, NUM_CLASSES
from arvbench.harness.quality.classifier import DATA, DIMS, WEIGHTS_FILE, load_classifier
from arvbench.harness.quality.extractors import Extractor

NAME = "digits-cnn"
FEATURES, LOGITS = str(DIMS), "logits"


class DigitsCnnExtractor(FeatureExtractorBase):
    """uint8 (N, 3, 32, 32) in, the requested of "64" (features) and "logits" out."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_options: Any
    ) -> None:
        super().__init__(name, features_list)
        path = feature_extractor_weights_path
        self.classifier = load_classifier(DATA / WEIGHTS_FILE if path is None else Path(path))

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        provided = dict(zip(self.get_provided_features_list(), self.classifier(input), strict=True))
        return tuple(provided[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return FEATURES, LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LOGITS if metric == "isc" else FEATURES

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, IMAGE_PX, IMAGE_PX, dtype=torch.uint8)


# torch-fidelity refuses a second registration; a module body runs once per process unless it is reloaded.
if NAME not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(NAME, DigitsCnnExtractor)


def load(_inception_weights: Path | None, device: torch.device) -> Extractor:
    """Return the extractor with the weights that are part of this package."""
    network = create_feature_extractor(NAME, [FEATURES, LOGITS], cuda=False, verbose=False)
    return Extractor(
        name=NAME,
        network=network.to(device),
        device=device,
        feature_layer=FEATURES,
        logits_layer=LOGITS,
        dims=DIMS,
        image_px=IMAGE_PX,
        classes=NUM_CLASSES,
        sha256=sha256_of(DATA / WEIGHTS_FILE),
        preprocessing="no resize; x / 127.5 - 1",
    )
