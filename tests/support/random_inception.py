"""torch-fidelity's Inception with random weights that make it a demanding example, and its file.

Convolutions keep activations of order one (torch's initialisation gives features of standard deviation 6e-8), and batch
normalisation has random statistics, so that an omitted one changes the features.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

LAYERS = ("2048", "logits_unbiased")


def random_inception(seed: int = 0) -> FeatureExtractorInceptionV3:
    """Return the network: uint8 (N, 3, H, W) -> (2048 features, 1008 logits without bias)."""
    with pytest.MonkeyPatch.context() as patch:
        # Construction insists on loading a file; these are its tensors.
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *_, **__: random_inception_state(seed),
        )
        return FeatureExtractorInceptionV3("inception-v3-compat", list(LAYERS))


@cache
def random_inception_state(seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict with the names of the published file."""
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", list(LAYERS)).to_empty(device="cpu")
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.7, 1.3, generator=random)
            module.bias.normal_(0, 0.2, generator=random)
            module.running_mean.normal_(0, 0.3, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
    network.fc.weight.normal_(0, 0.02, generator=random)
    network.fc.bias.normal_(0, 1, generator=random)
    return {name: value for name, value in network.state_dict().items() if not name.endswith(".num_batches_tracked")}


def write_random_inception(path: Path, seed: int = 0) -> Path:
    """Write the weights in the form of the published file."""
    torch.save(random_inception_state(seed), path)
    return path
