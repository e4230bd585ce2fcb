"""Denoising head on single tokens: an MLP, modulated by the time and the transformer's condition of the token.

Tokens do not see each other in it. It predicts the noise in a token's latents and the share of its variance.

Shapes   B images, R rows (conditional, then, with guidance, unconditional), n tokens of a pass, X leading dimensions,
         K latent channels, C width of the head, Z width of the conditions
Names    modules have the names of the official state dict
Source   MAR (arXiv:2406.11838) section 4; behaviour of LTH14/mar at fe470ac
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.latents.blocks import EPS, TIME_FEATURES, LayerNorm, TimeEmbedding, number_features
from arvbench.adapters.latents.diffusion import Process, denoise
from arvbench.adapters.sampling import Noise, normals_of


class HeadBlock(nn.Module):
    """Norm, modulation, MLP and gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x_XC: Tensor, condition_XC: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(condition_XC).chunk(3, dim=-1)
        out_XC: Tensor = x_XC + gate * self.mlp(self.in_ln(x_XC) * (1 + scale) + shift)
        return out_XC


class FinalLayer(nn.Module):
    """Norm without parameters, modulation without a gate, projection."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_XC: Tensor, condition_XC: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition_XC).chunk(2, dim=-1)
        out: Tensor = self.linear(F.layer_norm(x_XC, x_XC.shape[-1:], eps=EPS) * (1 + scale) + shift)
        return out


class MlpHead(nn.Module):
    """The head."""

    def __init__(self, latent_dim: int, condition: int, width: int, blocks: int) -> None:
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(condition, width)
        self.input_proj = nn.Linear(latent_dim, width)
        self.res_blocks = nn.ModuleList(HeadBlock(width) for _ in range(blocks))
        self.final_layer = FinalLayer(width, 2 * latent_dim)

    def forward(self, x_XK: Tensor, features_X256: Tensor, z_XZ: Tensor) -> Tensor:
        """Noise and variance (X, 2K) fp32 at the steps whose tables are (X, 256), or of a shape that broadcasts."""
        x_XC = self.input_proj(x_XK.to(self.input_proj.weight.dtype))
        condition_XC = self.time_embed(features_X256) + self.cond_embed(z_XZ)
        for block in cast(Iterable[HeadBlock], self.res_blocks):
            x_XC = block(x_XC, condition_XC)
        out_X2K: Tensor = self.final_layer(x_XC, condition_XC).float()
        return out_X2K


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpHeadCost:
    """Work of one evaluation of the head."""

    latent_dim: int
    condition: int
    width: int
    blocks: int

    def flops(self, tokens: int) -> int:
        """FLOPs for `tokens` of all rows at one time."""
        block = 10 * self.width**2
        ends = 2 * self.width * (3 * self.latent_dim + self.condition) + 4 * self.width**2
        return tokens * (self.blocks * block + ends) + 2 * self.width * (TIME_FEATURES + self.width)

    @property
    def launches(self) -> int:
        """Kernels that the state waits for: input, two products in a block, output."""
        return 2 + 2 * self.blocks

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights."""
        width = self.width
        block = 5 * width**2 + 7 * width
        times = width * (TIME_FEATURES + width) + 2 * width
        ends = width * (self.latent_dim + self.condition) + 2 * width + 2 * width**2 + 2 * width
        last = 2 * self.latent_dim * (width + 1)
        return itemsize * (self.blocks * block + times + ends + last)


class Denoised(NamedTuple):
    """Tokens of one pass."""

    latents_BnK: Tensor
    last_Rn2K: Tensor
    """Output of the head in its last evaluation."""


class TokenDraws(NamedTuple):
    """Normal draws of one pass: the start, and for each step those of the conditional and of the unconditional rows."""

    noise: Noise
    first: int
    """Number of the start among the draws of the call."""
    unused: bool
    """True: draw for the unconditional rows too, which the official code moves by their own noise and does not read."""

    @staticmethod
    def count(steps: int) -> int:
        """Draws of a pass."""
        return 1 + 2 * steps

    def start(self, like_BnK: Tensor) -> Tensor:
        return self.noise.normal(like_BnK, self.first)

    def of_steps(self, like_BnK: Tensor, steps: int) -> Iterator[Tensor]:
        """Yield the noise (B, n, K) of every step."""
        numbers = range(self.first + 1, self.first + self.count(steps), 2)
        if not self.unused:
            yield from normals_of(self.noise, like_BnK, numbers)
            return
        for number in numbers:
            drawn_BnK, _ = self.noise.normal(like_BnK, number), self.noise.normal(like_BnK, number + 1)
            yield drawn_BnK


def denoise_tokens(
    head: MlpHead,
    z_RnZ: Tensor,
    process: Process,
    *,
    strength: float | None,
    temperature: float,
    draws: TokenDraws,
) -> Denoised:
    """Denoise the tokens of a pass under their conditions; `strength` mixes both halves of the rows, if there are two.

    Guidance mixes the noise that the head predicts; the variance is that of the conditional rows.
    """
    images = len(z_RnZ) if strength is None else len(z_RnZ) // 2
    # Only shape, dtype and device of it are read.
    like_BnK = torch.empty(images, z_RnZ.shape[1], head.input_proj.in_features, device=z_RnZ.device)
    features_S256, last = step_features(process.numbers, z_RnZ.device), list[Tensor]()

    def predict(x_BnK: Tensor, index: int) -> tuple[Tensor, Tensor]:
        x_RnK = x_BnK if strength is None else torch.cat((x_BnK, x_BnK))
        out_Rn2K: Tensor = head(x_RnK, features_S256[index], z_RnZ)
        last[:] = [out_Rn2K]
        noise_RnK, raw_RnK = out_Rn2K.chunk(2, dim=-1)
        noise_BnK = noise_RnK[:images]
        if strength is not None:
            unguided_BnK = noise_RnK[images:]
            noise_BnK = unguided_BnK + strength * (noise_BnK - unguided_BnK)
        return noise_BnK, process[index].log_variance(raw_RnK[:images])

    latents_BnK = denoise(
        draws.start(like_BnK),
        process,
        predict=predict,
        normals=draws.of_steps(like_BnK, len(process)),
        temperature=temperature,
    )
    return Denoised(latents_BnK, last[0])


# Remembered for good, because recorded calls read the table where it lies (arvbench.adapters.graphs).
@cache
def step_features(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Tables (S, 256) of the steps of a process."""
    with torch.inference_mode(False):
        return number_features(torch.tensor(numbers)).to(device)
