"""Blocks of D-AR's tokenizer: attention with normed queries and keys, gated layers, and those of the pixel decoder.

Shapes   B images, T tokens of a layer, S tokens attended to, C width, D channels of a head, p patches, P rotation pairs
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.common.rotary import rotate

EPS = 1e-6


def bare_norm(x_BTC: Tensor) -> Tensor:
    """Layer norm without parameters."""
    return F.layer_norm(x_BTC, x_BTC.shape[-1:], eps=EPS)


def patch_rotations(rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    """Cosine and sine (p, P, 2) fp32 of patches in raster order: half of the pairs by row, half by column."""
    pairs = head_dim // 4
    frequencies_P = 10000.0 ** -(torch.arange(pairs, dtype=torch.float64, device=device) / pairs)
    row_p, column_p = (
        index.flatten()
        for index in torch.meshgrid(
            torch.arange(rows, dtype=torch.float64, device=device),
            torch.arange(columns, dtype=torch.float64, device=device),
            indexing="ij",
        )
    )
    angles_pP = torch.cat((torch.outer(row_p, frequencies_P), torch.outer(column_p, frequencies_P)), dim=1)
    return torch.stack((angles_pP.cos(), angles_pP.sin()), dim=-1).float()


class Attention(nn.Module):
    """Attention with one projection each, and a layer norm of every head's queries and keys."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(head_dim, eps=EPS)
        self.k_norm = nn.LayerNorm(head_dim, eps=EPS)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x_BTC: Tensor,
        others_BSC: Tensor | None = None,
        *,
        rotary: Tensor | None = None,
        mask_TS: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend to `others_BSC` (None: to x itself). Of other tokens, `rotary` turns the queries alone."""
        read_BSC = x_BTC if others_BSC is None else others_BSC
        q, k, v = (
            projected.unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for projected in (self.q(x_BTC), self.k(read_BSC), self.v(read_BSC))
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary) if others_BSC is None else k
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_TS, is_causal=causal)
        projected_BTC: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected_BTC


class Mlp(nn.Module):
    """Two layers with a SiLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out_BTC: Tensor = self.fc2(F.silu(self.fc1(x_BTC)))
        return out_BTC


class GatedLayer(nn.Module):
    """Attention and MLP on the normed stream, each with a learnt gate per channel."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.gate1 = nn.Parameter(torch.ones(width))
        self.gate2 = nn.Parameter(torch.ones(width))
        self.attention = Attention(width, head_dim)
        self.mlp = Mlp(width)
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.norm2 = nn.LayerNorm(width, eps=EPS)

    def initial_values(self) -> dict[str, Tensor]:
        """Before training gates are open, and attention picks few tokens: an average differs little between images."""
        gates = {name: torch.ones_like(getattr(self, name)) for name in ("gate1", "gate2")}
        return gates | {"attention.q_norm.weight": 3 * torch.ones_like(self.attention.q_norm.weight)}

    def forward(
        self, x_BTC: Tensor, *, rotary: Tensor | None = None, mask_TS: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        attended_BTC = self.attention(self.norm1(x_BTC), rotary=rotary, mask_TS=mask_TS, causal=causal)
        x_BTC = x_BTC + self.gate1 * attended_BTC
        out_BTC: Tensor = x_BTC + self.gate2 * self.mlp(self.norm2(x_BTC))
        return out_BTC


class TimeEmbedding(nn.Module):
    """A vector per image of its time in [0, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time_B: Tensor) -> Tensor:
        half = self.width // 2
        frequencies_h = torch.exp(-math.log(10000) / half * torch.arange(half, device=time_B.device))
        angles_Bh = 1000 * time_B[:, None].float() * frequencies_h
        table_BC = torch.cat((angles_Bh.cos(), angles_Bh.sin()), dim=1)
        embedded_BC: Tensor = self.mlp(table_BC.to(self.mlp.get_parameter("0.weight").dtype))
        return embedded_BC


class PixelBlock(nn.Module):
    """Block of the velocity net: time and conditions, read by cross-attention, modulate attention and MLP per patch."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.attention = Attention(width, head_dim)
        self.cross_attn = Attention(width, head_dim)
        self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def initial_values(self) -> dict[str, Tensor]:
        """Before training noise passes by the block, which reads conditions and time alone, and adds nothing yet.

        What a patch reads of the conditions depends on its place: queries of noisy pixels would hide it, and nothing
        else tells it.
        """
        linear = self.adaLN_modulation.get_submodule("1")
        weight, bias = (linear.get_parameter(name).detach().clone() for name in ("weight", "bias"))
        for chunk, value in ((1, -1.0), (2, 1.0), (4, -1.0), (5, 1.0)):  # scale and gate, of attention and MLP
            weight.chunk(6)[chunk].zero_()
            bias.chunk(6)[chunk].fill_(value)
        query, draw = self.cross_attn.q, torch.Generator().manual_seed(0)
        return {
            "adaLN_modulation.1.weight": weight,
            "adaLN_modulation.1.bias": bias,
            "attention.proj.weight": torch.zeros_like(self.attention.proj.weight),
            "mlp.fc2.weight": torch.zeros_like(self.mlp.fc2.weight),
            "cross_attn.q.weight": torch.zeros_like(query.weight),
            "cross_attn.q.bias": torch.randn(query.bias.shape, generator=draw),
            "cross_attn.q_norm.weight": torch.full_like(self.cross_attn.q_norm.weight, 2.0),
        }

    def forward(self, x_BpC: Tensor, time_B: Tensor, cond_BSC: Tensor, rotary: Tensor) -> Tensor:
        cond_BSC = bare_norm(self.cond_embed(cond_BSC))
        read_BpC = self.cross_attn(bare_norm(x_BpC), cond_BSC, rotary=rotary)
        modulation = self.adaLN_modulation(self.time_embed(time_B)[:, None] + read_BpC).chunk(6, dim=2)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation
        x_BpC = x_BpC + gate * self.attention(bare_norm(x_BpC) * (1 + scale) + shift, rotary=rotary)
        out_BpC: Tensor = x_BpC + gate_mlp * self.mlp(bare_norm(x_BpC) * (1 + scale_mlp) + shift_mlp)
        return out_BpC
