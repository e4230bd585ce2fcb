"""Extractors of clean-fid: its three modes, with that library's own resizers and networks.

clean-fid                    Pillow's bicubic resize to 299 x 299 in float, antialiased and not rounded; NVIDIA's
                             TorchScript translation of Inception 2015-12-05
clean-fid-legacy-tensorflow  the TorchScript network with TensorFlow 1's bilinear resize inside it
clean-fid-legacy-pytorch     PyTorch's bilinear resize (half-pixel centres, not antialiased); pytorch-fid's network

The library looks for weights in the system's temporary folder and downloads missing ones; here each network gets the
user's file. A TorchScript file is a program: torchscript.py decides which ones may be opened.

Shapes   B images; features (B, 2048)
Range    images uint8 0..255 (B, 3, H, W) of any size
Source   Parmar et al., arXiv:2104.11222; clean-fid 0.1.35
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arvbench.files import scratch_folder
from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.extractors.inception.weights import load_inception_weights
from arvbench.harness.quality.extractors.torchscript import check_program, opening
from arvbench.harness.quality.extractors.weights import WEIGHTS, checked_digest, find_weights

LAYER, DIMS = "2048", 2048
BATCH = 32
"""The library's batch size for folders; the rounding of convolutions depends on it."""
_TORCHSCRIPT = "inception-torchscript"
"""Entry in the table of weights."""
_FILE_IN_FOLDER = "inception-2015-12-05.pt"
"""Name under which the library opens the network in its folder."""
_PREPROCESSING: Mapping[str, str] = {
    "clean": "Pillow bicubic resize to 299 x 299 in float, antialiased, clipped, not rounded; (x - 128) / 128",
    "legacy_tensorflow": "TensorFlow 1 bilinear resize to 299 x 299 inside the network, not antialiased; "
    "(x - 128) / 128",
    "legacy_pytorch": "PyTorch bilinear resize to 299 x 299, half-pixel centres, not antialiased; 2 x / 255 - 1",
}
_patching = threading.Lock()

Features = Callable[[Tensor], Tensor]
"""Prepared images (B, 3, H, W) fp32 0..255 -> (B, 2048)."""


def load_clean(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Return the extractor of the mode "clean": layer "2048" (B, 2048) fp32.

    Raises UserError without weights, CheckpointError for a file that is damaged, unsafe or of another network.
    """
    return _of_torchscript("clean-fid", "clean", extractor_files, device)


def load_legacy_tensorflow(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Return the extractor of the mode "legacy_tensorflow". Raises as `load_clean`."""
    return _of_torchscript("clean-fid-legacy-tensorflow", "legacy_tensorflow", extractor_files, device)


def load_legacy_pytorch(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Return the extractor of the mode "legacy_pytorch". Raises as `load_clean`."""
    weights = load_inception_weights(extractor_files, "pytorch-fid-inception")
    features = _pytorch_features(weights.tensors, device)
    return _extractor("clean-fid-legacy-pytorch", "legacy_pytorch", features, device, weights.sha256, weights.note)


def _of_torchscript(name: str, mode: str, extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    weights = WEIGHTS[_TORCHSCRIPT]
    path = find_weights(_TORCHSCRIPT, extractor_files)
    sha256 = checked_digest(path, weights)
    check_program(path, sha256, weights)
    features = _torchscript_features(path, device, resize_inside=mode == "legacy_tensorflow")
    return _extractor(name, mode, features, device, sha256, weights.note(path, sha256))


def _extractor(name: str, mode: str, features: Features, device: torch.device, sha256: str, note: str) -> Extractor:
    prepare = _preparation(mode)

    def network(images_B3HW: Tensor) -> Mapping[str, Tensor]:
        return {LAYER: features(prepare(images_B3HW).to(device))}

    return Extractor(
        name=name,
        image_s=0.35,
        network=network,
        layers={LAYER: DIMS},
        device=device,
        sha256=sha256,
        preprocessing=_PREPROCESSING[mode],
        batch=BATCH,
        note=note,
    )


def _preparation(mode: str) -> Features:
    """Return the library's data loader as a function: uint8 images -> network input, fp32 0..255, on the CPU."""
    from torchvision.transforms import ToTensor

    with _quiet():
        from cleanfid.resize import build_resizer

        resize = build_resizer(mode)
    to_tensor = ToTensor()

    def prepare(images_B3HW: Tensor) -> Tensor:
        pixels_BHW3 = images_B3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        with _quiet():
            resized = [resize(pixels_HW3) for pixels_HW3 in pixels_BHW3]
        # ToTensor divides bytes by 255 and leaves floats alone. Like the library, multiply again: not every byte comes
        # back exactly.
        return torch.stack([to_tensor(pixels) * (255 if pixels.dtype == "uint8" else 1) for pixels in resized])

    return prepare


def _torchscript_features(path: Path, device: torch.device, *, resize_inside: bool) -> Features:
    """Load the library's wrapper around the archive at `path`, which has passed `check_program`."""
    from cleanfid.inception_torchscript import InceptionV3W

    with scratch_folder() as folder, opening(path):
        (folder / _FILE_IN_FOLDER).symlink_to(path.resolve())
        model = InceptionV3W(str(folder), download=False, resize_inside=resize_inside).to(device).eval()

    def features(images_B3HW: Tensor) -> Tensor:
        # After its first calls the profiling executor may fuse operations, which changes the last bits of features.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined, unused-ignore]
            features_BD: Tensor = model(images_B3HW)
            return features_BD

    return features


def _pytorch_features(tensors: dict[str, Tensor], device: torch.device) -> Features:
    """Load the library's copy of pytorch-fid's network with these tensors; call it as the library does."""
    with _quiet():
        import cleanfid.inception_pytorch as library

        with _loading_from(library, tensors):
            model = library.InceptionV3(output_blocks=[3], resize_input=False).to(device).eval()

    def features(images_B3PP: Tensor) -> Tensor:
        features_BD11: Tensor = model(images_B3PP / 255)[0]
        return features_BD11.squeeze(-1).squeeze(-1)

    return features


@contextmanager
def _loading_from(library: Any, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Make the library's download of weights return `tensors` inside the block; one thread at a time."""
    with _patching:
        download = library.load_state_dict_from_url
        library.load_state_dict_from_url = lambda *_, **__: tensors
        try:
            yield
        finally:
            library.load_state_dict_from_url = download


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and restore the filters: the library's resizer disables all warnings of the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
