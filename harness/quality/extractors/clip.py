"""CLIP's image towers with OpenAI's weights: ViT-B/32 for CLIP-FID, ViT-L/14 at 336 pixels for CMMD.

Layer "embedding" is the projection into the space that images and texts share.
clip-vit-b-32       512 numbers, not normalised, after clean-fid's preprocessing for its clip_vit_b_32 (that library
                    runs the tower in fp16 on a GPU and in fp32 on a CPU; here it is fp32 everywhere)
clip-vit-l-14-336   768 numbers, not normalised (the metric CMMD scales them to length 1), after CMMD's preprocessing

The architecture is open_clip's with the approximate GELU that OpenAI trained with; only the image tower is built.

Shapes   B images, D features, P side of the input in pixels
Range    images uint8 0..255 (B, 3, H, W) of any size
Source   Parmar et al., arXiv:2104.11222 and its library's CLIP option; Jayasumana et al., arXiv:2401.09603
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arvbench.adapters.checkpoints import load_strict, read_tensors
from arvbench.adapters.common.meta import on_meta
from arvbench.errors import CheckpointError
from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.extractors.pil_resize import (
    Resize,
    middle_square,
    normalised,
    resize_each,
    shorter_side_cropped,
)
from arvbench.harness.quality.extractors.torchscript import check_program, is_torchscript, read_program_tensors
from arvbench.harness.quality.extractors.weights import WEIGHTS, ExtractorWeights, checked_digest, find_weights

LAYER = "embedding"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_TOWER = "visual."
"""Prefix of the image tower in OpenAI's and open_clip's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An image tower, and what comes before it."""

    name: str
    """Name in EXTRACTORS and in WEIGHTS."""
    model: str
    """Name of open_clip's configuration."""
    resize: Resize
    resize_text: str
    image_s: float
    """As in `Extractor`."""


VIT_B_32 = Variant(
    name="clip-vit-b-32",
    model="ViT-B-32-quickgelu",
    resize=shorter_side_cropped,
    resize_text="Pillow bicubic resize of the shorter side to {px}, rounded to bytes; middle {px} x {px}",
    image_s=0.15,
)
VIT_L_14_336 = Variant(
    name="clip-vit-l-14-336",
    model="ViT-L-14-336-quickgelu",
    resize=middle_square,
    resize_text="middle square; Pillow bicubic resize to {px} x {px}, rounded to bytes",
    image_s=7.0,
)


def load_vit_b_32(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Return the extractor of CLIP-FID: layer "embedding" (B, 512) fp32.

    Raises UserError without weights, CheckpointError for a file that is damaged, unsafe or of another network.
    """
    return load_tower(VIT_B_32, extractor_files, device)


def load_vit_l_14_336(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Return the extractor of CMMD: layer "embedding" (B, 768) fp32. Raises as `load_vit_b_32`."""
    return load_tower(VIT_L_14_336, extractor_files, device)


def load_tower(variant: Variant, extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Return the extractor of one image tower. Raises as `load_vit_b_32`."""
    weights = WEIGHTS[variant.name]
    path = find_weights(variant.name, extractor_files)
    sha256 = checked_digest(path, weights)
    tower = empty_tower(variant.model)
    load_strict(tower, _tower_tensors(path, sha256, weights), source=f"{path} (wanted: {weights.file_name})")
    tower.to(device).eval().requires_grad_(False)
    side_px = tower.image_size[0]

    def network(images_B3HW: Tensor) -> Mapping[str, Tensor]:
        resized_B3PP = resize_each(images_B3HW, side_px, variant.resize).to(device)
        return {LAYER: tower(normalised(resized_B3PP, MEAN, STD))}

    return Extractor(
        name=variant.name,
        image_s=variant.image_s,
        network=network,
        layers={LAYER: tower.output_dim},
        device=device,
        sha256=sha256,
        preprocessing=f"{variant.resize_text.format(px=side_px)}; (x / 255 - mean) / std of CLIP",
        note=weights.note(path, sha256),
    )


def empty_tower(model: str) -> Any:
    """Build the image tower on the meta device; the text tower is built there too, and costs no memory."""
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise CheckpointError(f"this open_clip has no configuration {model!r}; install open-clip-torch >= 2.30")
    return on_meta(lambda: open_clip.CLIP(**config).visual)


def _tower_tensors(path: Path, sha256: str, weights: ExtractorWeights) -> dict[str, Tensor]:
    """Read the image tower's tensors as fp32; OpenAI's files store most of them in fp16."""
    if is_torchscript(path):
        repository, file_name = weights.hub or ("", "")
        instead = f", or {file_name} from huggingface.co/{repository}" if repository else ""
        check_program(path, sha256, weights, instead)
        tensors = read_program_tensors(path)
    else:
        tensors = read_tensors(path, nesting=[["state_dict"]])
    tower = {name.removeprefix(_TOWER): t.float() for name, t in tensors.items() if name.startswith(_TOWER)}
    if not tower:
        raise CheckpointError(
            f"{path} holds no image tower of CLIP (no tensor named {_TOWER}...); give OpenAI's {weights.file_name} or "
            "open_clip's own file of these weights"
        )
    return tower
