"""ResizeBilinear of TensorFlow 1 (align_corners and half_pixel_centers both false), bit for bit.

Output pixel i reads the input at i * (in / out), not at pixel centres; there is no antialiasing, and edges are clamped.
All arithmetic is fp32 in TensorFlow's order: along x in the upper and the lower row, then along y. Sums and products
stay separate operations: a fused multiply-add would round once, TensorFlow rounds twice.

Shapes   N images, H x W pixels in, S x S out
Range    uint8 0..255 in, fp32 0..255 out, not rounded
Source   the kernel of ResizeBilinear in TensorFlow 1
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS = 3


def resize_tf1(images_N3HW: Tensor, side: int) -> Tensor:
    """Return fp32 (N, 3, side, side) in channels-last memory, for uint8 images (N, 3, H, W) of any size."""
    count, _, height, width = images_N3HW.shape
    device = images_N3HW.device
    low_x, high_x, weight_x = (part.to(device) for part in _taps(width, side))
    low_y, high_y, weight_y = (part.to(device) for part in _taps(height, side))
    # Below, a line is a row of pixels with their channels.
    weight_line = weight_x.repeat_interleave(CHANNELS)
    weight_column = weight_y[:, None]
    out_NSSC = torch.empty((count, side, side, CHANNELS), device=device)
    # On the CPU one image at a time: it and its intermediate results fit into the cache.
    step = 1 if device.type == "cpu" else max(count, 1)
    for start in range(0, count, step):
        image_nHWC = images_N3HW[start : start + step].permute(0, 2, 3, 1).float().contiguous()
        lines = (len(image_nHWC), height, side * CHANNELS)
        left = image_nHWC.index_select(2, low_x).view(lines)
        right = image_nHWC.index_select(2, high_x).view(lines)
        across = right.sub_(left).mul_(weight_line).add_(left)
        upper = across.index_select(1, low_y)
        lower = out_NSSC[start : start + step].view(len(image_nHWC), side, side * CHANNELS)
        torch.index_select(across, 1, high_y, out=lower)
        lower.sub_(upper).mul_(weight_column).add_(upper)
    return out_NSSC.permute(0, 3, 1, 2)


def _taps(size: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for every output pixel, the lower and the upper input pixel and the upper one's weight (fp32)."""
    scale = torch.tensor(size, dtype=torch.float32) / side
    source = torch.arange(side, dtype=torch.float32) * scale
    low = source.long()
    return low, (low + 1).clamp_max(size - 1), source - low.float()
