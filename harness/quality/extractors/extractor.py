"""The interface of extractors, and their table.

Shapes   B images of one call, D features of a layer
Range    images uint8 0..255 (B, 3, H, W); features fp32
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arvbench.errors import CheckpointError, UserError
from arvbench.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ExtractorFiles = Mapping[str, Path]
"""Name in the table of weights (weights.py) -> local file that the user gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A loaded network with the facts about it that belong to the protocol."""

    name: str
    network: Callable[[Tensor], Mapping[str, Tensor]]
    """uint8 (B, 3, H, W) on `device` -> layer -> (B, D)."""
    layers: Mapping[str, int]
    """Layer -> D."""
    device: torch.device
    sha256: str
    """Digest of the weights file."""
    preprocessing: str
    """Steps from uint8 to the network's input, in words; part of the protocol id."""
    batch: int = 64
    """Images per forward pass; the rounding of convolutions depends on it."""
    image_px: int | None = None
    """Side of the images that it accepts; None accepts every size."""
    classes: int | None = None
    """Number of classes when the logits predict the samples' labels, so that label accuracy is defined; else None."""
    image_s: float = 0.1
    """Seconds of one CPU core for one image, roughly: they decide from how many images on a second process pays."""
    note: str = ""
    """Remark for a reader of records, such as "weights are not the published ones"."""

    def extract(self, images_N3HW: Tensor, layers: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return layer -> (N, D) fp32 on the CPU for uint8 images (N, 3, H, W), in batches of `batch`.

        Arithmetic is fp32 without TF32 or autocast under any settings of the caller. Raises UserError for images that
        this network does not accept, CheckpointError for features that are not finite.
        """
        import torch

        self.check(images_N3HW)
        parts: dict[str, list[Tensor]] = {layer: [] for layer in sorted(self.layers if layers is None else layers)}
        with torch.inference_mode(), full_precision(self.device):
            for batch_B3HW in images_N3HW.split(self.batch):
                outputs = self.network(batch_B3HW.to(self.device))
                for layer, part in parts.items():
                    part.append(outputs[layer].float().cpu())
        features = {layer: torch.cat(part) for layer, part in parts.items()}
        self._check_finite(features)
        return features

    def check(self, images_N3HW: Tensor) -> None:
        """Raise UserError unless the images are uint8 (N, 3, H, W) of a size that this network accepts."""
        import torch

        if images_N3HW.dtype != torch.uint8 or images_N3HW.dim() != 4 or images_N3HW.shape[1] != 3:
            raise UserError(
                f"quality is measured on uint8 images (N, 3, H, W), not {images_N3HW.dtype} {tuple(images_N3HW.shape)}"
            )
        self.check_size(images_N3HW.shape[2], images_N3HW.shape[3])

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError for an image size that this network does not accept."""
        if self.image_px is not None and (height, width) != (self.image_px, self.image_px):
            raise UserError(
                f"extractor {self.name!r} takes {self.image_px} x {self.image_px} images, these are {height} x "
                f"{width}; choose another protocol"
            )

    def _check_finite(self, features: Mapping[str, Tensor]) -> None:
        for layer, features_ND in features.items():
            bad_N = ~features_ND.isfinite().all(dim=1)
            if bad_N.any():
                raise CheckpointError(
                    f"extractor {self.name!r} gave NaN or infinite features ({layer}) for {int(bad_N.sum())} of "
                    f"{len(bad_N)} images (first: image {int(bad_N.nonzero()[0])}); its weights (sha256 "
                    f"{self.sha256[:12]}) are damaged"
                )


_HERE = "arvbench.harness.quality.extractors"
_TABLE: Mapping[str, tuple[str, str | None]] = {
    # name: (function that loads it, its entry in WEIGHTS (weights.py) or None for weights inside this package)
    "adm-inception": (f"{_HERE}.adm_inception:load", "inception"),
    "fidelity-inception": (f"{_HERE}.fidelity_inception:load", "inception"),
    "fidelity-inception-adm": (f"{_HERE}.fidelity_inception:load_adm", "inception"),
    "clean-fid": (f"{_HERE}.clean_fid:load_clean", "inception-torchscript"),
    "clean-fid-legacy-tensorflow": (f"{_HERE}.clean_fid:load_legacy_tensorflow", "inception-torchscript"),
    "clean-fid-legacy-pytorch": (f"{_HERE}.clean_fid:load_legacy_pytorch", "pytorch-fid-inception"),
    "clip-vit-b-32": (f"{_HERE}.clip:load_vit_b_32", "clip-vit-b-32"),
    "clip-vit-l-14-336": (f"{_HERE}.clip:load_vit_l_14_336", "clip-vit-l-14-336"),
    "dinov2-vit-l-14": (f"{_HERE}.dinov2:load", "dinov2-vit-l-14"),
    "digits-cnn": (f"{_HERE}.digits_cnn:load", None),
}
EXTRACTORS: Registry[Callable[[ExtractorFiles, Any], Extractor]] = Registry(
    "extractor", {name: load for name, (load, _) in _TABLE.items()}
)


def weights_of(extractor: str) -> str | None:
    """Return the entry in WEIGHTS that an extractor loads; None when it needs no file from the user."""
    return _TABLE[extractor][1] if extractor in _TABLE else None


def load_extractor(
    name: str, *, device: torch.device | str = "cpu", extractor_files: ExtractorFiles | None = None
) -> Extractor:
    """Load an extractor of the table. Raises UnknownName, UserError without weights, CheckpointError for bad ones."""
    import torch

    return EXTRACTORS[name](extractor_files or {}, torch.device(device))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in fp32 without TF32, autocast or benchmarked algorithms; restore the caller's settings afterwards."""
    import torch

    cudnn = torch.backends.cudnn
    knobs = _fp32_knobs()
    before = [(owner, "fp32_precision", owner.fp32_precision) for owner in knobs]
    before += [(cudnn, name, getattr(cudnn, name)) for name in ("benchmark", "deterministic")]
    matmul, allow_tf32 = _older_settings()
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        # Older settings first: they set the newer ones too. Both then agree, so reading either raises no error.
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        for owner in knobs:
            if owner.fp32_precision not in ("none", "ieee"):
                owner.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if allow_tf32 is not None:
            cudnn.allow_tf32 = allow_tf32
        for owner, name, value in before:
            setattr(owner, name, value)


def _older_settings() -> tuple[str | None, bool | None]:
    """Return the matmul precision and cuDNN's allow_tf32; None for one that the newer settings contradict."""
    import torch

    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = None
    try:
        return matmul, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return matmul, None


def _fp32_knobs() -> list[Any]:
    """Return the objects that hold the fp32 precision of each operation; none before torch 2.9."""
    import torch

    backends = torch.backends
    places = [(backends, "cuda", "matmul"), (backends, "cudnn", "conv"), (backends, "cudnn", "rnn")]
    places += [(backends, "mkldnn", "matmul"), (backends, "mkldnn", "conv")]
    owners = [getattr(getattr(root, part), name, None) for root, part, name in places]
    return [owner for owner in owners if hasattr(owner, "fp32_precision")]
