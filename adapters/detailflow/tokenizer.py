"""DetailFlow's tokenizer: a sequence of latents, of which the first ones alone give a smaller picture.

The encoder appends N learnt latents to the patches of an image. Patches see patches; latents see all patches, the first
ones causally and the others in groups. The decoder puts codes behind as many copies of a mask token as its picture has
patches. The number of latents decides the side of the picture by a curve (`side_of`): both were trained together.

Shapes   B images, D code channels, V codebook entries, N latents of an image, t latents used, p patches, T = p + t,
         C width, H W image sides
Range    images nominally [-1, 1]; the decoder does not clamp
Names    modules have the names of the official state dict; blocks are those of SigLIP
Source   DetailFlow (arXiv:2505.21473); behaviour of ByteFlow-AI/DetailFlow at c5f06cd
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.sampling import Noise
from arvbench.adapters.tokenizers.tokenizer import IdTokenizer
from arvbench.adapters.tokenizers.vq import Codebook
from arvbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailFlowTokenizerConfig:
    """Sizes that the official code fixes, with those of the released tokenizers; None for `num_latent_tokens`' own."""

    num_latent_tokens: int
    """N."""
    codebook_size: int = 8192
    codebook_embed_dim: int = 8
    group_size: int = 8
    causal_num: int | None = None
    """Latents that see each other causally; None means one group of them."""
    patch_size: int = 16
    positions: int = 256
    """Patches of the largest picture, a square number."""
    enc_dim: int = 1152
    enc_heads: int = 16
    enc_layers: int = 12
    enc_mlp: int | None = None
    """Hidden width of the encoder; None means four times its width."""
    dec_dim: int = 768
    dec_heads: int = 12
    dec_layers: int = 12
    codebook_l2_norm: bool = True
    beta: float = 0.25
    """Weight of the commitment term in training."""

    @property
    def vocab_size(self) -> int:
        return self.codebook_size

    @property
    def code_dim(self) -> int:
        return self.codebook_embed_dim

    @property
    def image_px(self) -> int:
        """Side of the picture of all latents."""
        return math.isqrt(self.positions) * self.patch_size

    def side_of(self, latents: int) -> int:
        """Side in pixels of the picture of the first `latents`: the resolution curve, rounded up to whole patches."""
        most, count = self.image_px, self.num_latent_tokens
        if count == 1:
            return most
        side = int(most - (most - 1) / (count - 1) ** 1.5 * (count - latents) ** 1.5)
        return -(-side // self.patch_size) * self.patch_size


class SelfAttention(nn.Module):
    """Multi-head attention with one projection each for q, k, v and the output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BTC: Tensor, mask_TT: Tensor | None) -> Tensor:
        q, k, v = (
            proj(x_BTC).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_TT)
        out_BTC: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out_BTC


class Mlp(nn.Module):
    """Two layers with a tanh-approximated GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out_BTC: Tensor = self.fc2(F.gelu(self.fc1(x_BTC), approximate="tanh"))
        return out_BTC


class Block(nn.Module):
    """Attention and MLP, each on the normalised stream."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attn = SelfAttention(width, heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x_BTC: Tensor, mask_TT: Tensor | None) -> Tensor:
        x_BTC = x_BTC + self.self_attn(self.layer_norm1(x_BTC), mask_TT)
        out_BTC: Tensor = x_BTC + self.mlp(self.layer_norm2(x_BTC))
        return out_BTC


class Vision(nn.Module):
    """Patch positions, blocks and a last norm under the names of SigLIP; the encoder's also embeds patches."""

    def __init__(self, config: DetailFlowTokenizerConfig, sizes: tuple[int, int, int, int], *, patches: bool) -> None:
        """Take `sizes`: width, heads, layers, hidden width."""
        super().__init__()
        width, heads, layers, hidden = sizes
        self.embeddings = nn.Module()
        if patches:
            self.embeddings.patch_embedding = nn.Linear(3 * config.patch_size**2, width)
        self.embeddings.position_embedding = nn.Embedding(config.positions, width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.post_layernorm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position vectors (p, C) of a picture of `grid` patches: the square table resized, bilinear with antialias."""
        table_pC: Tensor = self.get_parameter("embeddings.position_embedding.weight")
        side = math.isqrt(len(table_pC))
        if grid == (side, side):
            return table_pC
        map_1Css: Tensor = table_pC.T.unflatten(1, (side, side))[None]
        resized = F.interpolate(map_1Css, size=grid, mode="bilinear", align_corners=False, antialias=True)
        resized_pC: Tensor = resized[0].flatten(1).T
        return resized_pC

    def forward(self, x_BTC: Tensor, mask_TT: Tensor | None = None) -> Tensor:
        layers: Any = self.encoder.layers
        for block in layers:
            x_BTC = block(x_BTC, mask_TT)
        out_BTC: Tensor = self.post_layernorm(x_BTC)
        return out_BTC


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, N, C)."""

    def __init__(self, config: DetailFlowTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.enc_dim
        self.latent_pos_embed = nn.Parameter(torch.zeros(1, config.num_latent_tokens, width))
        self.latent_tokens = nn.Parameter(torch.zeros(1, config.num_latent_tokens, width))
        sizes = (width, config.enc_heads, config.enc_layers, config.enc_mlp or 4 * width)
        self.visual_model = Vision(config, sizes, patches=True)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        patches_BpX, grid = self._patches(images_B3HW)
        embed: Any = self.visual_model.embeddings
        patches_BpC = embed.patch_embedding(patches_BpX) + self.visual_model.positions(grid)
        latents_BNC = (self.latent_tokens + self.latent_pos_embed).expand(len(images_B3HW), -1, -1)
        mask_TT = latent_mask(patches_BpC.shape[1], self.config, patches_BpC.device)
        out_BTC: Tensor = self.visual_model(torch.cat((patches_BpC, latents_BNC), dim=1), mask_TT)
        return out_BTC[:, patches_BpC.shape[1] :]

    def _patches(self, images_B3HW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches (B, p, 3 P^2) in raster order, each ordered by row, column and channel; and rows and columns."""
        size = self.config.patch_size
        height, width = images_B3HW.shape[2:]
        if height % size or width % size:
            raise UserError(f"images of {height} x {width} pixels cannot be cut into patches of {size} x {size}")
        grid = (height // size, width // size)
        cut = images_B3HW.unflatten(3, (grid[1], size)).unflatten(2, (grid[0], size))
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2), grid


def latent_mask(patches: int, config: DetailFlowTokenizerConfig, device: torch.device) -> Tensor:
    """Boolean (T, T): what the patches and the latents after them attend to in the encoder."""
    count, size = config.num_latent_tokens, config.group_size
    causal = config.causal_num or size
    index_N = torch.arange(count, device=device)
    # The first latents are groups of one.
    group_N = torch.where(index_N < causal, index_N, causal + index_N // size)
    mask_TT = torch.zeros(patches + count, patches + count, dtype=torch.bool, device=device)
    mask_TT[:, :patches] = True
    mask_TT[patches:, patches:] = group_N[:, None] >= group_N[None]
    return mask_TT


class ToPixels(nn.Module):
    """Patch rows to patches, ordered by row, column and channel."""

    def __init__(self, config: DetailFlowTokenizerConfig) -> None:
        super().__init__()
        self.model = nn.Linear(config.dec_dim, 3 * config.patch_size**2)


class Decoder(nn.Module):
    """Latents (B, t, C) to images (B, 3, side, side), nominally in [-1, 1] and not clamped."""

    def __init__(self, config: DetailFlowTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.dec_dim
        self.latent_pos_embed = nn.Parameter(torch.zeros(1, config.num_latent_tokens, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.visual_model = Vision(config, (width, config.dec_heads, config.dec_layers, 4 * width), patches=False)
        self.to_pixel = ToPixels(config)

    def forward(self, latents_BtC: Tensor, side_px: int) -> Tensor:
        size = self.config.patch_size
        grid, (batch, count, _) = side_px // size, latents_BtC.shape
        masks_BpC = (self.mask_token + self.visual_model.positions((grid, grid))).expand(batch, -1, -1)
        latents_BtC = latents_BtC + self.latent_pos_embed[:, :count]
        patches_BpC = self.visual_model(torch.cat((masks_BpC, latents_BtC), dim=1))[:, : grid * grid]
        cut = self.to_pixel.model(patches_BpC).unflatten(2, (size, size, 3)).unflatten(1, (grid, grid))
        images_B3HW: Tensor = cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return images_B3HW


class DetailFlowTokenizer(IdTokenizer):
    """Encoder, codebook and decoder. Code vectors are a map (B, D, 1, t) of one line."""

    quantize: Codebook
    training_only: ClassVar = (
        "encoder.refined_tokens",
        "refine_conv.",
        "repa_model.",
        "projection.",
        "global_token_proj.",
    )

    def __init__(self, config: DetailFlowTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Codebook(config)
        self.quant_conv = nn.Linear(config.enc_dim, config.codebook_embed_dim)
        self.post_quant_conv = nn.Linear(config.codebook_embed_dim, config.dec_dim)

    def constant_buffers(self) -> dict[str, Tensor]:
        """Buffers whose values follow from the configuration."""
        used = self.quantize.codebook_used
        return {"quantize.codebook_used": torch.zeros(used.shape, dtype=used.dtype)}

    def features(self, images_B3HW: Tensor) -> Tensor:
        weight = self.quant_conv.weight
        latents_BND: Tensor = self.quant_conv(self.encoder(images_B3HW.to(weight.dtype))).float()
        return latents_BND.transpose(1, 2).unsqueeze(2)

    def coarser(self, features_BD1N: Tensor, latents: int) -> Tensor:
        """Return the first `latents`."""
        return features_BD1N[..., :latents]

    def encode(self, images_B3HW: Tensor) -> Tensor:
        return self.quantize.nearest(self.finite_features(images_B3HW))

    def decode(self, ids_Bl: Tensor, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W) of the first latents; their number decides the sides."""
        return self.decode_map(self.quantize.lookup(ids_Bl, (1, ids_Bl.shape[1])))

    def decode_map(self, map_BKhw: Tensor) -> Tensor:
        return self.restore(map_BKhw, self.config.side_of(map_BKhw.shape[3]))

    def restore(self, codes_BD1t: Tensor, side_px: int) -> Tensor:
        """Images (B, 3, side_px, side_px) of the code vectors of the first latents."""
        codes_BtD = codes_BD1t[:, :, 0].transpose(1, 2).to(self.post_quant_conv.weight.dtype)
        images_B3HW: Tensor = self.decoder(self.post_quant_conv(codes_BtD), side_px)
        return images_B3HW

    def decode_parts(self) -> tuple[nn.Module, ...]:
        return (self.post_quant_conv, self.decoder)

    def decode_flops(self, side: tuple[int, int]) -> int:
        config: DetailFlowTokenizerConfig = self.config
        latents = side[1]
        width, patches = config.dec_dim, (config.side_of(latents) // config.patch_size) ** 2
        tokens = patches + latents
        # Four projections, two products of attention, and an MLP of four times the width.
        blocks = config.dec_layers * tokens * (24 * width**2 + 4 * tokens * width)
        return blocks + 2 * width * (latents * config.codebook_embed_dim + patches * 3 * config.patch_size**2)

    def training_loss(self, images_B3HW: Tensor, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction from the first `side` latents (None: all) at their sides, and the quantizer's loss (scalar).

        Latents are dropped from the end, so that the first ones learn what matters most (section 3.2).
        """
        features_BD1N = self.features(images_B3HW)
        if side is not None:
            features_BD1N = self.coarser(features_BD1N, side)
        codes_BD1t, loss = self.quantize.straight_through(features_BD1N)
        return self.decode_map(codes_BD1t), loss
