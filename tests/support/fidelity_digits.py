"""The digit classifier behind torch-fidelity's interface, so that tests can compare our numbers with that library's.

Importing this module registers the classifier there as "digits-cnn".
"""

from __future__ import annotations

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from arvbench.harness.quality.extractors.digits_cnn import load_classifier

NAME = "digits-cnn"
FEATURES, LOGITS = "64", "logits"


class DigitsCnnExtractor(FeatureExtractorBase):
    """Map uint8 (N, 3, 32, 32) to the requested layers: "64" (features), "logits"."""

    def __init__(self, name, features_list, **_options):
        super().__init__(name, features_list)
        self.classifier = load_classifier()

    def forward(self, input):
        provided = dict(zip((FEATURES, LOGITS), self.classifier(input), strict=True))
        return tuple(provided[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list():
        return FEATURES, LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return LOGITS if metric == "isc" else FEATURES

    @staticmethod
    def can_be_compiled():
        return False

    @staticmethod
    def get_dummy_input_for_compile():
        return torch.zeros(1, 3, 32, 32, dtype=torch.uint8)


# torch-fidelity refuses a second registration; test files import this under their own names of the module.
if NAME not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(NAME, DigitsCnnExtractor)
