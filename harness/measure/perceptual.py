"""LPIPS, the learned distance of two images, by the library `lpips` (extra `arvbench[lpips]`) with AlexNet.

The library brings the weights of its own linear layers. Those of AlexNet are torchvision's file, which the user gives
(quality.extractors.weights); nothing is downloaded.

Shapes   N images, H W image height and width
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from arvbench.adapters.checkpoints import read_tensors
from arvbench.adapters.common.meta import WithoutInitialisation
from arvbench.errors import CheckpointError, HostError, UserError
from arvbench.harness.quality.extractors.extractor import ExtractorFiles, full_precision
from arvbench.harness.quality.extractors.weights import WEIGHTS, checked_digest, find_weights

NAME = "lpips-alex"
LEAST_PX = 31
"""Smaller images vanish in AlexNet's pooling."""


class Lpips:
    """LPIPS 0.1 with AlexNet; `library` names it, with its weights."""

    def __init__(self, network: Any, library: str, device: torch.device) -> None:
        self._network, self.library, self._device = network, library, device

    @torch.no_grad()
    def distances(self, expected_N3HW: Tensor, actual_N3HW: Tensor) -> list[float]:
        """Return the distance of every pair of uint8 images; 0 for equal ones."""
        first, second = (images.to(self._device, torch.float32) / 127.5 - 1 for images in (expected_N3HW, actual_N3HW))
        with full_precision(self._device):
            found: list[float] = self._network(first, second).flatten().tolist()
        return found


def load_lpips(extractor_files: ExtractorFiles, image_shape: tuple[int, int], device: torch.device) -> Lpips:
    """Load the network for images of a height and width.

    Raises UserError without weights or for images that are too small, CheckpointError for bad weights, HostError
    without the library.
    """
    if min(image_shape) < LEAST_PX:
        raise UserError(f"images of {min(image_shape)} pixels are too small for LPIPS, which needs {LEAST_PX}")
    path = find_weights(NAME, extractor_files)
    try:
        import lpips
    except ImportError as error:
        raise HostError("LPIPS needs the library lpips: pip install 'arvbench[lpips]'") from error
    digest = checked_digest(path, WEIGHTS[NAME])
    with warnings.catch_warnings(), WithoutInitialisation():
        warnings.simplefilter("ignore")  # torchvision's old name of "no weights"
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    tensors = read_tensors(path)
    state = {key: tensors.get(_published(key)) for key in network.net.state_dict()}
    try:
        if missing := [_published(key) for key, tensor in state.items() if tensor is None]:
            raise CheckpointError(f"{path} is no AlexNet of torchvision: it lacks {missing[0]}")
        network.net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is no AlexNet of torchvision: {reason}") from error
    note = WEIGHTS[NAME].note(path, digest)
    library = f"lpips {version('lpips')} 0.1, AlexNet {digest[:12]}" + (f" ({note})" if note else "")
    return Lpips(network.to(device), library, device)


def _published(key: str) -> str:
    """Return torchvision's name of a tensor: "slice2.3.weight" is "features.3.weight"."""
    return f"features.{key.partition('.')[2]}"
