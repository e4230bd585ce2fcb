"""Feature extractors: networks that turn images into the features that the metrics compare.

Each is registered with torch-fidelity under its name there, so that library can use it as well.
Add one: a file with a function (Path | None, device) -> Extractor, and a line in EXTRACTORS.

Shapes   N images, B images of one batch, D features, C classes
Range    images uint8 0..255 (N, 3, H, W); features and logits fp32
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arvbench.errors import CheckpointError, UserError
from arvbench.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

BATCH = 64
"""Images per forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What an extractor says about N images, on the CPU."""

    features_ND: Tensor
    """(N, D) fp32: what FID, KID, precision and recall compare."""
    logits_NC: Tensor
    """(N, C) fp32: what the inception score and the label accuracy read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A loaded network with everything about it that belongs to the protocol."""

    name: str
    network: FeatureExtractorBase
    """torch-fidelity's module, in evaluation mode, asked for `feature_layer` and `logits_layer` in that order."""
    device: torch.device
    feature_layer: str
    logits_layer: str
    dims: int
    """D."""
    image_px: int | None
    """Side of the only images it takes; None takes every size."""
    classes: int | None
    """Number of classes when the logits are of the labels of the samples (then label accuracy has a meaning)."""
    sha256: str
    """Digest of the weights file."""
    preprocessing: str
    """From uint8 to the network's input, in words; part of the protocol."""
    note: str = ""

    def extract(self, batches: Iterable[Tensor]) -> Features:
        """Return the features of all images of `batches`, uint8 (B, 3, H, W) each, in their order.

        fp32 arithmetic without TF32 or autocast, whatever the caller has set. Raises UserError for images that this
        network cannot take and CheckpointError when the features are not finite.
        """
        import torch

        features: list[Tensor] = []
        logits: list[Tensor] = []
        with torch.no_grad(), _full_precision(self.device):
            for batch_B3HW in batches:
                self._check(batch_B3HW)
                out = self.network.convert_features_tuple_to_dict(self.network(batch_B3HW.to(self.device)))
                features.append(out[self.feature_layer].float().cpu())
                logits.append(out[self.logits_layer].float().cpu())
        result = Features(features_ND=torch.cat(features), logits_NC=torch.cat(logits))
        self._check_finite(result)
        return result

    def _check(self, batch_B3HW: Tensor) -> None:
        import torch

        if batch_B3HW.dtype != torch.uint8 or batch_B3HW.dim() != 4 or batch_B3HW.shape[1] != 3:
            raise UserError(
                f"quality is measured on uint8 images (N, 3, H, W), not {batch_B3HW.dtype} {tuple(batch_B3HW.shape)}"
            )
        height, width = batch_B3HW.shape[2:]
        if self.image_px is not None and (height, width) != (self.image_px, self.image_px):
            raise UserError(
                f"extractor {self.name!r} takes {self.image_px} x {self.image_px} images, these are {height} x "
                f"{width}; choose another extractor"
            )

    def _check_finite(self, result: Features) -> None:
        bad_N = ~(result.features_ND.isfinite().all(dim=1) & result.logits_NC.isfinite().all(dim=1))
        if bad_N.any():
            raise CheckpointError(
                f"extractor {self.name!r} gave NaN or infinite features for {int(bad_N.sum())} of {len(bad_N)} images "
                f"(first: image {int(bad_N.nonzero()[0])}); its weights (sha256 {self.sha256[:12]}) are damaged"
            )


EXTRACTORS: Registry[Callable[[Path | None, Any], Extractor]] = Registry(
    "extractor",
    {
        "digits-cnn": "arvbench.harness.quality.digits_cnn:load",
        "inception": "arvbench.harness.quality.inception:load",
    },
)


def load_extractor(
    name: str, *, device: torch.device | str = "cpu", inception_weights: Path | None = None
) -> Extractor:
    """Load an extractor of the table. Raises UnknownName, or UserError when its weights are not there."""
    import torch

    return EXTRACTORS[name](inception_weights, torch.device(device))


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    import torch

    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(allow_tf32=False, benchmark=False, deterministic=True),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
