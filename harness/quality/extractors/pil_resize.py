"""Preprocessing by Pillow, as in the published protocols of CLIP and DINOv2: uint8 images -> network input.

Pillow's bicubic filter antialiases (it widens with the reduction) and rounds to bytes.

Shapes   B images, H W height and width, P side of the network's input in pixels
Range    images uint8 0..255; network input fp32, normalised
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Resize = Callable[[Image.Image, int], Image.Image]
"""(RGB image, P) -> RGB image P x P."""


def stretched(image: Image.Image, side_px: int) -> Image.Image:
    """Resize the whole image without keeping its aspect ratio."""
    return image.resize((side_px, side_px), Image.Resampling.BICUBIC)


def shorter_side_cropped(image: Image.Image, side_px: int) -> Image.Image:
    """Resize the shorter side to P, then crop the middle P x P, with torchvision's rounding of odd margins."""
    from torchvision.transforms import InterpolationMode, functional

    resized = functional.resize(image, [side_px], InterpolationMode.BICUBIC)
    cropped: Image.Image = functional.center_crop(resized, [side_px, side_px])
    return cropped


def middle_square(image: Image.Image, side_px: int) -> Image.Image:
    """Crop the middle square, then resize it to P x P."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return stretched(image.crop((left, top, left + side, top + side)), side_px)


def resize_each(images_B3HW: Tensor, side_px: int, resize: Resize) -> Tensor:
    """Return uint8 (B, 3, P, P) on the CPU from uint8 (B, 3, H, W)."""
    pixels_BHW3 = images_B3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    resized = [np.asarray(resize(Image.fromarray(pixels_HW3), side_px)) for pixels_HW3 in pixels_BHW3]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def normalised(images_B3PP: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return fp32 (x / 255 - mean) / std per channel, in this order of operations."""
    mean_311, std_311 = (torch.tensor(numbers, device=images_B3PP.device).view(3, 1, 1) for numbers in (mean, std))
    return (images_B3PP.float() / 255 - mean_311) / std_311
