"""DINOv2 ViT-L/14 for FD-DINOv2: the normalised class token, 1024 numbers.

The preprocessing is dgm-eval's: every image is stretched to 224 x 224 by Pillow's bicubic filter and rounded to bytes,
then normalised as for ImageNet. The weights have 37 x 37 patch positions (518 pixels), images of 224 pixels 16 x 16. So
positions are interpolated as in the official model that dgm-eval loads: bicubic without antialiasing, with the scale
factor (16 + 0.1) / 37 of its `interpolate_offset`. (timm would antialias and use 16 / 37.)

The architecture is timm's, which names its tensors as the official model does. EDM2's default ("torch" resize, not
rounded) gives close but different numbers.

Shapes   B images, T tokens (1 + patches), D = 1024 features, P = 224 side of the input in pixels
Range    images uint8 0..255 (B, 3, H, W) of any size
Source   Stein et al., arXiv:2306.04675 (dgm-eval); Oquab et al., arXiv:2304.07193
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arvbench.adapters.checkpoints import load_strict, read_tensors
from arvbench.adapters.common.meta import on_meta
from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.extractors.pil_resize import normalised, resize_each, stretched
from arvbench.harness.quality.extractors.weights import WEIGHTS, checked_digest, find_weights

NAME = "dinov2-vit-l-14"
MODEL = "vit_large_patch14_dinov2"
"""timm's name of the architecture."""
LAYER = "cls"
IMAGE_PX = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
POSITION_OFFSET = 0.1
"""Number added to the patches per side in the scale factor; the published features depend on it."""


def load(extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Load the official dinov2_vitl14_pretrain.pth, or timm's model.safetensors.

    Layer "cls" (B, 1024) fp32. Raises UserError without weights, CheckpointError for a file that is damaged, unsafe or
    of another network.
    """
    weights = WEIGHTS[NAME]
    path = find_weights(NAME, extractor_files)
    sha256 = checked_digest(path, weights)
    model = empty_model()
    tensors = adapt_tensors(read_tensors(path), model.patch_embed.grid_size[0])
    load_strict(model, tensors, source=f"{path} (wanted: {weights.file_name})")
    model.to(device).eval().requires_grad_(False)

    def network(images_B3HW: Tensor) -> Mapping[str, Tensor]:
        resized_B3PP = resize_each(images_B3HW, IMAGE_PX, stretched).to(device)
        tokens_BTD = model.forward_features(normalised(resized_B3PP, MEAN, STD))
        return {LAYER: tokens_BTD[:, 0]}

    return Extractor(
        name=NAME,
        image_s=3.0,
        network=network,
        layers={LAYER: model.num_features},
        device=device,
        sha256=sha256,
        preprocessing=f"Pillow bicubic resize to {IMAGE_PX} x {IMAGE_PX}, rounded to bytes; (x / 255 - mean) / std of "
        f"ImageNet; positions bicubic, not antialiased, offset {POSITION_OFFSET}",
        note=weights.note(path, sha256),
    )


def empty_model() -> Any:
    """Build timm's model for 224 pixels on the meta device."""
    import timm

    return on_meta(lambda: timm.create_model(MODEL, pretrained=False, img_size=IMAGE_PX, num_classes=0))


def adapt_tensors(tensors: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """Return the tensors of a published file as fp32 for a model with grid x grid patches.

    The official file's mask token, which only training uses, is left out.
    """
    adapted = {name: tensor.float() for name, tensor in tensors.items() if name != "mask_token"}
    positions_1TD = adapted.get("pos_embed")
    if positions_1TD is not None and positions_1TD.dim() == 3:
        adapted["pos_embed"] = interpolated_positions(positions_1TD, grid)
    return adapted


def interpolated_positions(positions_1TD: Tensor, grid: int) -> Tensor:
    """Interpolate the positions of a square grid to (1, 1 + grid * grid, D), except that of the class token."""
    dims = positions_1TD.shape[2]
    side = math.isqrt(positions_1TD.shape[1] - 1)
    if side == grid or side * side != positions_1TD.shape[1] - 1:
        return positions_1TD
    patches_1DSS = positions_1TD[:, 1:].reshape(1, side, side, dims).permute(0, 3, 1, 2)
    factor = (grid + POSITION_OFFSET) / side
    resized_1DGG = nn.functional.interpolate(patches_1DSS, scale_factor=(factor, factor), mode="bicubic")
    patches_1TD = resized_1DGG.permute(0, 2, 3, 1).reshape(1, grid * grid, dims)
    return torch.cat([positions_1TD[:, :1], patches_1TD], dim=1)
