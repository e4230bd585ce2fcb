"""A TorchScript Inception with random weights and the interface of NVIDIA's inception-2015-12-05.pt.

It has the weights of `random_inception`, so that the extractors of Inception features can be compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from random_inception import random_inception
from torch import Tensor, nn

from arvbench.adapters.checkpoints import sha256_of
from arvbench.harness.quality.extractors.torchscript import TRUST_VARIABLE

SIDE_PX = 299
_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


class _Program(nn.Module):
    """Take images 0..255 of any size and resize them as TensorFlow 1; `layers` takes normalised 299 x 299."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        if not return_features:
            raise NotImplementedError("logits")
        resized = self.resized(self.resized(images.float(), 2), 3)
        return self.layers((resized - 128) / 128).flatten(1)

    def resized(self, x: Tensor, dim: int) -> Tensor:
        size = x.shape[dim]
        source = torch.arange(299, device=x.device).float() * (float(size) / 299)
        low = source.floor().long()
        high = (low + 1).clamp(max=size - 1)
        share = (source - low).reshape([299, 1] if dim == 2 else [299])
        start = x.index_select(dim, low)
        return start + (x.index_select(dim, high) - start) * share


def write_torchscript(path: Path, seed: int = 0) -> Path:
    """Write the program with the weights of `random_inception(seed)`."""
    network = random_inception(seed)
    layers = nn.Sequential(*(getattr(network, name) for name in _LAYERS)).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(layers, torch.zeros(1, 3, SIDE_PX, SIDE_PX), check_trace=False)
        torch.jit.script(_Program(traced)).save(str(path))
    return path


def environment_trusting(path: Path) -> Mapping[str, str]:
    """Return environment variables under which this archive is opened although it is not the published one."""
    return {TRUST_VARIABLE: sha256_of(path)}
