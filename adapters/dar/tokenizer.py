"""D-AR's tokenizer: a sequence of ids conditions a diffusion model over pixels, group by group.

The encoder reads an image by learnt queries. The decoder turns codes into conditions by causal layers, and then
denoises pixels in a few steps; each step sees the conditions of one group of tokens, the first groups first. Its only
draw is the noise that it starts from.

Shapes   B images, D code channels, V codebook entries, N tokens of an image, C width, p patches, H W image sides
Range    images nominally [-1, 1]; the decoder does not clamp
Names    modules have the names of the official state dict
Source   D-AR (arXiv:2505.23660); behaviour of showlab/D-AR at 3fb0f2d
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.dar.blocks import GatedLayer, PixelBlock, bare_norm, patch_rotations
from arvbench.adapters.sampling import Noise, TokenNoise
from arvbench.adapters.tokenizers.tokenizer import IdTokenizer
from arvbench.adapters.tokenizers.vq import Codebook
from arvbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class DarTokenizerConfig:
    """Constructor arguments under their official names, with those of the pixel decoder behind `diff_`."""

    encoder_patch_size: int = 16
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    query_low_rank: bool = True
    encoder_dim: int = 768
    decoder_dim: int = 768
    vq_dim: int = 8
    vq_codebook_size: int = 16384
    num_denoising_steps: int = 8
    num_query_groups: int = 8
    num_all_queries: int = 256
    queries_per_step: int = 32
    table_rows: int = 1024
    """Rows of the tables of queries and positions, of which the first `num_all_queries` are used."""
    sampling_resolution: int = 256
    diff_dim: int = 768
    diff_patch_size: int = 8
    diff_depth: int = 12
    head_dim: int = 64
    """Channels of a head of every attention."""
    data_std: float = 0.6
    time_shift: float = 2.0
    codebook_l2_norm: bool = True
    beta: float = 0.25
    """Weight of the commitment term in training."""

    @property
    def codebook_size(self) -> int:
        return self.vq_codebook_size

    @property
    def codebook_embed_dim(self) -> int:
        return self.vq_dim

    @property
    def vocab_size(self) -> int:
        return self.vq_codebook_size

    @property
    def code_dim(self) -> int:
        return self.vq_dim

    @property
    def image_px(self) -> int:
        return self.sampling_resolution

    def first_seen(self, raw_time: float) -> int:
        """First of the conditions that are seen at a time, before times are warped."""
        start = math.floor(raw_time * self.num_query_groups + 0.5) * self.num_all_queries // self.num_query_groups
        return int(min(start, self.num_all_queries - self.queries_per_step))

    def times(self, steps: int | None = None) -> list[float]:
        """Warped times of the first `steps` steps (None: of all), in fp32, and the end."""
        raw = np.arange(self.num_denoising_steps, dtype=np.float32)[:steps] / np.float32(self.num_denoising_steps)
        return [*warped(raw, np.float32(self.time_shift)).tolist(), 1.0]


def warped(raw: Any, shift: Any) -> Any:
    """Times as the velocity net gets them: early ones are closer together."""
    return raw / (raw + shift * (1 - raw))


class VelocityNet(nn.Module):
    """Velocity of pixels towards the image, from noisy pixels, time and conditions."""

    def __init__(self, config: DarTokenizerConfig) -> None:
        super().__init__()
        self.patch, self.head_dim = config.diff_patch_size, config.head_dim
        values, width = 3 * self.patch**2, config.diff_dim
        self.cond_mlp = nn.Linear(config.decoder_dim, width)
        self.conv_in = nn.Conv2d(values, width, 1)
        self.conv_out = nn.Conv2d(width, values, 1)
        self.blocks = nn.ModuleList(PixelBlock(width, config.head_dim) for _ in range(config.diff_depth))

    def initial_values(self) -> dict[str, Tensor]:
        """Before training pixels pass through: the velocity leads from noise to zero.

        Channels without pixels hold a constant, or else the norm at the end would depend on the noise of a patch.
        """
        width, values = self.conv_in.weight.shape[:2]
        into, back = torch.zeros_like(self.conv_in.weight), torch.zeros_like(self.conv_out.weight)
        nn.init.eye_(into.flatten(1))
        nn.init.eye_(back.flatten(1))
        constant = into.new_zeros(width)
        constant[values::2], constant[values + 1 :: 2] = 3.0, -3.0
        norm = ((values + constant.square().sum()) / width).sqrt()
        return {"conv_in.weight": into, "conv_in.bias": constant, "conv_out.weight": -norm * back}

    def forward(self, x_B3HW: Tensor, time_B: Tensor, cond_BSC: Tensor, rotary: Tensor | None = None) -> Tensor:
        """`rotary` holds the places of the patches; None means that they are all patches of the image."""
        map_BCpp = self.conv_in(F.pixel_unshuffle(x_B3HW, self.patch))
        side = map_BCpp.shape[2:]
        if rotary is None:
            rotary = patch_rotations(side[0], side[1], self.head_dim, x_B3HW.device)
        cond_BSC = bare_norm(self.cond_mlp(cond_BSC))
        x_BpC = map_BCpp.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x_BpC = block(x_BpC, time_B, cond_BSC, rotary)
        velocity_BXpp = self.conv_out(bare_norm(x_BpC).transpose(1, 2).unflatten(2, side))
        return F.pixel_shuffle(velocity_BXpp, self.patch)


class DarTokenizer(IdTokenizer):
    """Encoder, codebook and pixel decoder. Code vectors are a map (B, D, 1, N) of one line."""

    quantize: Codebook
    training_only: ClassVar = ("diff_decoder.net.repa_out.",)

    def __init__(self, config: DarTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width, size = config.encoder_dim, config.encoder_patch_size
        self.patchify = nn.Conv2d(3, width, size, stride=size)
        self.query_embedding = nn.Embedding(config.table_rows, config.vq_dim if config.query_low_rank else width)
        if config.query_low_rank:
            self.query_linear = nn.Linear(config.vq_dim, width)
        self.encoder_layers = nn.ModuleList(
            GatedLayer(width, config.head_dim) for _ in range(config.num_encoder_layers)
        )
        self.quant_in_conv = nn.Conv2d(width, config.vq_dim, 1, bias=False)
        self.quantize = Codebook(config)
        self.quant_out_conv = nn.Conv2d(config.vq_dim, config.decoder_dim, 1, bias=False)
        self.decoder_embedding = nn.Embedding(config.table_rows, config.decoder_dim)
        self.decoder_layers = nn.ModuleList(
            GatedLayer(config.decoder_dim, config.head_dim) for _ in range(config.num_decoder_layers)
        )
        self.diff_decoder = nn.ModuleDict({"net": VelocityNet(config)})

    def constant_buffers(self) -> dict[str, Tensor]:
        """Buffers whose values follow from the configuration."""
        used = self.quantize.codebook_used
        # `zeros_like` of a tensor without memory imports a compiler.
        return {"quantize.codebook_used": torch.zeros(used.shape, dtype=used.dtype)}

    @property
    def net(self) -> VelocityNet:
        net = self.diff_decoder["net"]
        assert isinstance(net, VelocityNet)
        return net

    def features(self, images_B3HW: Tensor) -> Tensor:
        """Features (B, D, 1, N) fp32 of the queries."""
        size, count = self.config.encoder_patch_size, self.config.num_all_queries
        height, width = images_B3HW.shape[2:]
        if height % size or width % size:
            raise UserError(f"images of {height} x {width} pixels cannot be cut into patches of {size} x {size}")
        map_BCpp = self.patchify(images_B3HW.to(self.patchify.weight.dtype))
        patches_BpC = bare_norm(map_BCpp.flatten(2).transpose(1, 2))
        queries_NC = self.query_embedding.weight[:count]
        if self.config.query_low_rank:
            queries_NC = self.query_linear(queries_NC)
        x_BTC = torch.cat((patches_BpC, queries_NC.expand(len(images_B3HW), -1, -1)), dim=1)
        patches, device = patches_BpC.shape[1], x_BTC.device
        turned_pP2 = patch_rotations(map_BCpp.shape[2], map_BCpp.shape[3], self.config.head_dim, device)
        still_NP2 = torch.tensor([1.0, 0.0], device=device).expand(count, turned_pP2.shape[1], 2)
        rotary = torch.cat((turned_pP2, still_NP2))
        mask_TT = torch.ones(len(rotary), len(rotary), dtype=torch.bool, device=device).tril()
        mask_TT[:, :patches] = True
        for layer in self.encoder_layers:
            x_BTC = layer(x_BTC, rotary=rotary, mask_TS=mask_TT)
        queries_BC1N = bare_norm(x_BTC[:, patches:]).transpose(1, 2).unsqueeze(2)
        features_BD1N: Tensor = self.quant_in_conv(queries_BC1N).float()
        return features_BD1N

    def encode(self, images_B3HW: Tensor) -> Tensor:
        return self.quantize.nearest(self.finite_features(images_B3HW))

    def conditions(self, map_BKhw: Tensor) -> Tensor:
        """Conditions (B, N, C) of code vectors."""
        x_BC1N = self.quant_out_conv(map_BKhw.to(self.quant_out_conv.weight.dtype))
        x_BNC = x_BC1N[:, :, 0].transpose(1, 2) + self.decoder_embedding.weight[: map_BKhw.shape[3]]
        for layer in self.decoder_layers:
            x_BNC = layer(x_BNC, causal=True)
        return bare_norm(x_BNC)

    def decode(self, ids_Bl: Tensor, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W); without `noise` the ids decide what the decoder starts from."""
        side = self.config.sampling_resolution
        like = torch.empty(len(ids_Bl), 3, side, side, device=ids_Bl.device)
        start_B3HW = (noise or TokenNoise(ids_Bl)).normal(like, 0)
        return self.denoised(self.quantize.lookup(ids_Bl, (1, ids_Bl.shape[1])), start_B3HW)

    def decode_map(self, map_BKhw: Tensor) -> Tensor:
        side = self.config.sampling_resolution
        return self.denoised(map_BKhw, torch.zeros(len(map_BKhw), 3, side, side, device=map_BKhw.device))

    def denoised(self, map_BKhw: Tensor, x_B3HW: Tensor, *, steps: int | None = None) -> Tensor:
        """Images from code vectors and noise; of `steps` the last one jumps to the end (None: all of them)."""
        config: DarTokenizerConfig = self.config
        cond_BNC, times = self.conditions(map_BKhw), config.times(steps)
        x_B3HW, before = x_B3HW.to(cond_BNC.dtype), None
        for number in range(len(times) - 1):
            time, span = times[number], times[number + 1] - times[number]
            first = config.first_seen(number / config.num_denoising_steps)
            seen_BSC = cond_BNC[:, first : first + config.queries_per_step]
            velocity = self.net(x_B3HW, torch.full((len(x_B3HW),), time, device=x_B3HW.device), seen_BSC)
            x_B3HW = x_B3HW + span * (velocity if before is None else 1.5 * velocity - 0.5 * before)
            before = velocity
        images_B3HW: Tensor = x_B3HW / config.data_std
        return images_B3HW

    def decode_parts(self) -> tuple[nn.Module, ...]:
        return (self.quant_out_conv, self.decoder_embedding, self.decoder_layers, self.diff_decoder)

    def decode_flops(self, side: tuple[int, int]) -> int:
        config: DarTokenizerConfig = self.config
        count, width, wide = side[1], config.decoder_dim, config.diff_dim
        layers = config.num_decoder_layers * count * (24 * width**2 + 4 * count * width)
        patches, seen = (config.sampling_resolution // config.diff_patch_size) ** 2, config.queries_per_step
        # Of a patch: six projections, an MLP of four times the width, and six modulations.
        block = patches * (12 + 16 + 12) * wide**2 + 4 * patches * (patches + seen) * wide
        # Time is one token; two layers embed the conditions, two more project them for attention.
        block += 4 * wide**2 + 8 * seen * wide**2
        step = config.diff_depth * block + 12 * patches * config.diff_patch_size**2 * wide + 2 * seen * width * wide
        return layers + 2 * count * config.vq_dim * width + config.num_denoising_steps * step

    def decoding_loss(self, images_B3HW: Tensor, codes_BD1N: Tensor, *, patches: int, draw: torch.Generator) -> Tensor:
        """Squared error of the velocity (scalar), each image at a step of the decoder of its own.

        Only `patches` of the image are computed, the same of all: more images per step of training teach more.
        """
        config: DarTokenizerConfig = self.config
        steps, size, device = config.num_denoising_steps, config.diff_patch_size, images_B3HW.device
        side = config.sampling_resolution // size
        chosen_k = torch.randperm(side * side, generator=draw)[:patches].to(device)
        row_BX1k = F.pixel_unshuffle(images_B3HW, size).flatten(2)[:, :, chosen_k].unsqueeze(2)
        goal_B3PW = config.data_std * F.pixel_shuffle(row_BX1k, size)

        step_B = torch.randint(steps, (len(images_B3HW),), generator=draw)
        first_B = torch.tensor([config.first_seen(step / steps) for step in step_B.tolist()])
        seen_BS = (first_B[:, None] + torch.arange(config.queries_per_step)).to(device)
        cond_BNC = self.conditions(codes_BD1N)
        seen_BSC = cond_BNC.gather(1, seen_BS[:, :, None].expand(-1, -1, cond_BNC.shape[2]))

        time_B = torch.tensor(config.times())[step_B].to(device)
        time_B111, noise_B3PW = time_B[:, None, None, None], torch.randn(goal_B3PW.shape, generator=draw).to(device)
        noisy_B3PW = (1 - time_B111) * noise_B3PW + time_B111 * goal_B3PW
        rotary = patch_rotations(side, side, config.head_dim, device)[chosen_k]
        velocity_B3PW = self.net(noisy_B3PW, time_B, seen_BSC, rotary)
        return F.mse_loss(velocity_B3PW, goal_B3PW - noise_B3PW) / config.data_std**2
