"""The Inception of 2015-12-05, TensorFlow's network behind FID, sFID and IS: its graph as data.

It differs from InceptionV3 in three points: average pools do not count padding, the last block's pool branch takes the
maximum, and there are 1,008 logits. `network.py` runs it, `tf_graph.py` reads its weights from TensorFlow's file.

Shapes   N images, 299 x 299 pixels
Sources  Szegedy et al. 2016 (arXiv:1512.00567); names of the weights as in torch-fidelity and pytorch-fid, scopes as
         in classify_image_graph_def.pb (torch-fidelity's converter)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

IMAGE_PX = 299
POOL, SPATIAL, LOGITS = "pool", "spatial", "logits"
SPATIAL_BLOCK, SPATIAL_CHANNELS = "Mixed_6d", 7
"""Spatial features are the first channels of this block's first branch, 17 x 17 pixels."""
LAYERS: Mapping[str, int] = {POOL: 2048, SPATIAL: 17 * 17 * SPATIAL_CHANNELS, LOGITS: 1008}
NORM_EPSILON = 1e-3

INPUT, AVERAGE, MAXIMUM = "input", "average", "maximum"
"""Inputs of a convolution that reads no other one: the block's input, or that input after a 3 x 3 pool."""


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution with batch normalisation and ReLU."""

    name: str
    tensorflow: str
    """Scope in TensorFlow's graph, within that of the block."""
    reads: str
    """Name of another convolution of the block, INPUT, AVERAGE or MAXIMUM."""
    channels: int
    kernel: tuple[int, int] = (1, 1)
    """Height and width."""
    stride: int = 1
    padded: bool = True
    """Zeros around the image, so that stride 1 keeps its size; without effect at stride 2."""

    @property
    def padding(self) -> tuple[int, int]:
        return (self.kernel[0] // 2, self.kernel[1] // 2) if self.padded and self.stride == 1 else (0, 0)

    @property
    def merges(self) -> bool:
        """True for a 1 x 1 convolution of the block's input; `network.py` merges these into one."""
        return self.kernel == (1, 1) and self.reads in (INPUT, AVERAGE)


@dataclass(frozen=True, slots=True)
class Block:
    """Parallel branches; the outputs that no other convolution reads are concatenated in this order."""

    name: str
    tensorflow: str
    convs: tuple[Conv, ...]
    keeps_maximum: bool = False
    """True when a 3 x 3 maximum of the input at stride 2 is the last branch."""

    @property
    def joined(self) -> tuple[Conv, ...]:
        read = {conv.reads for conv in self.convs}
        return tuple(conv for conv in self.convs if conv.name not in read)


STEM: tuple[Conv | None, ...] = (
    Conv("Conv2d_1a_3x3", "conv", INPUT, 32, (3, 3), stride=2),
    Conv("Conv2d_2a_3x3", "conv_1", INPUT, 32, (3, 3), padded=False),
    Conv("Conv2d_2b_3x3", "conv_2", INPUT, 64, (3, 3)),
    None,
    Conv("Conv2d_3b_1x1", "conv_3", INPUT, 80),
    Conv("Conv2d_4a_3x3", "conv_4", INPUT, 192, (3, 3), padded=False),
    None,
)
"""Convolutions in sequence; None is a 3 x 3 maximum at stride 2."""


def _block_35(pool_channels: int) -> tuple[Conv, ...]:
    return (
        Conv("branch1x1", "conv", INPUT, 64),
        Conv("branch5x5_1", "tower/conv", INPUT, 48),
        Conv("branch5x5_2", "tower/conv_1", "branch5x5_1", 64, (5, 5)),
        Conv("branch3x3dbl_1", "tower_1/conv", INPUT, 64),
        Conv("branch3x3dbl_2", "tower_1/conv_1", "branch3x3dbl_1", 96, (3, 3)),
        Conv("branch3x3dbl_3", "tower_1/conv_2", "branch3x3dbl_2", 96, (3, 3)),
        Conv("branch_pool", "tower_2/conv", AVERAGE, pool_channels),
    )


_BLOCK_35_TO_17 = (
    Conv("branch3x3", "conv", INPUT, 384, (3, 3), stride=2),
    Conv("branch3x3dbl_1", "tower/conv", INPUT, 64),
    Conv("branch3x3dbl_2", "tower/conv_1", "branch3x3dbl_1", 96, (3, 3)),
    Conv("branch3x3dbl_3", "tower/conv_2", "branch3x3dbl_2", 96, (3, 3), stride=2),
)


def _block_17(channels: int) -> tuple[Conv, ...]:
    return (
        Conv("branch1x1", "conv", INPUT, 192),
        Conv("branch7x7_1", "tower/conv", INPUT, channels),
        Conv("branch7x7_2", "tower/conv_1", "branch7x7_1", channels, (1, 7)),
        Conv("branch7x7_3", "tower/conv_2", "branch7x7_2", 192, (7, 1)),
        Conv("branch7x7dbl_1", "tower_1/conv", INPUT, channels),
        Conv("branch7x7dbl_2", "tower_1/conv_1", "branch7x7dbl_1", channels, (7, 1)),
        Conv("branch7x7dbl_3", "tower_1/conv_2", "branch7x7dbl_2", channels, (1, 7)),
        Conv("branch7x7dbl_4", "tower_1/conv_3", "branch7x7dbl_3", channels, (7, 1)),
        Conv("branch7x7dbl_5", "tower_1/conv_4", "branch7x7dbl_4", 192, (1, 7)),
        Conv("branch_pool", "tower_2/conv", AVERAGE, 192),
    )


_BLOCK_17_TO_8 = (
    Conv("branch3x3_1", "tower/conv", INPUT, 192),
    Conv("branch3x3_2", "tower/conv_1", "branch3x3_1", 320, (3, 3), stride=2),
    Conv("branch7x7x3_1", "tower_1/conv", INPUT, 192),
    Conv("branch7x7x3_2", "tower_1/conv_1", "branch7x7x3_1", 192, (1, 7)),
    Conv("branch7x7x3_3", "tower_1/conv_2", "branch7x7x3_2", 192, (7, 1)),
    Conv("branch7x7x3_4", "tower_1/conv_3", "branch7x7x3_3", 192, (3, 3), stride=2),
)


def _block_8(pooled: str) -> tuple[Conv, ...]:
    return (
        Conv("branch1x1", "conv", INPUT, 320),
        Conv("branch3x3_1", "tower/conv", INPUT, 384),
        Conv("branch3x3_2a", "tower/mixed/conv", "branch3x3_1", 384, (1, 3)),
        Conv("branch3x3_2b", "tower/mixed/conv_1", "branch3x3_1", 384, (3, 1)),
        Conv("branch3x3dbl_1", "tower_1/conv", INPUT, 448),
        Conv("branch3x3dbl_2", "tower_1/conv_1", "branch3x3dbl_1", 384, (3, 3)),
        Conv("branch3x3dbl_3a", "tower_1/mixed/conv", "branch3x3dbl_2", 384, (1, 3)),
        Conv("branch3x3dbl_3b", "tower_1/mixed/conv_1", "branch3x3dbl_2", 384, (3, 1)),
        Conv("branch_pool", "tower_2/conv", pooled, 192),
    )


BLOCKS: tuple[Block, ...] = (
    Block("Mixed_5b", "mixed", _block_35(32)),
    Block("Mixed_5c", "mixed_1", _block_35(64)),
    Block("Mixed_5d", "mixed_2", _block_35(64)),
    Block("Mixed_6a", "mixed_3", _BLOCK_35_TO_17, keeps_maximum=True),
    Block("Mixed_6b", "mixed_4", _block_17(128)),
    Block("Mixed_6c", "mixed_5", _block_17(160)),
    Block("Mixed_6d", "mixed_6", _block_17(160)),
    Block("Mixed_6e", "mixed_7", _block_17(192)),
    Block("Mixed_7a", "mixed_8", _BLOCK_17_TO_8, keeps_maximum=True),
    Block("Mixed_7b", "mixed_9", _block_8(AVERAGE)),
    Block("Mixed_7c", "mixed_10", _block_8(MAXIMUM)),
)


@dataclass(frozen=True, slots=True)
class PlacedConv:
    """A convolution at its place in the network, which gives it full names and input channels."""

    name: str
    """Prefix of its tensors in a PyTorch state dict."""
    tensorflow: str
    """Prefix of its constants in TensorFlow's graph."""
    conv: Conv
    channels_in: int

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out, in, height, width)."""
        return (self.conv.channels, self.channels_in, *self.conv.kernel)


def convolutions() -> Iterator[PlacedConv]:
    """Yield all 94 convolutions, in order."""
    width = 3
    for conv in STEM:
        if conv is not None:
            yield PlacedConv(conv.name, conv.tensorflow, conv, width)
            width = conv.channels
    for block in BLOCKS:
        widths = dict.fromkeys((INPUT, AVERAGE, MAXIMUM), width)
        for conv in block.convs:
            yield PlacedConv(
                f"{block.name}.{conv.name}", f"{block.tensorflow}/{conv.tensorflow}", conv, widths[conv.reads]
            )
            widths[conv.name] = conv.channels
        width = sum(conv.channels for conv in block.joined) + (width if block.keeps_maximum else 0)
