"""Transformer of masked models: conditions of all tokens, given those that are known.

The encoder sees the class, repeated in a buffer, and the known tokens. The decoder sees what it gave, and mask tokens
in all other places. Tables of places may hold several phases, one behind the other.

Shapes   R forward rows, b tokens of the buffer, k known tokens, N all tokens, l = b + k, L = b + N, C width
Names    modules have the names of the official state dicts
Source   MAR (arXiv:2406.11838) section 3; behaviour of LTH14/mar at fe470ac
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.latents.blocks import LayerNorm
from arvbench.adapters.latents.config import MaskedConfig
from arvbench.adapters.latents.masked import at, put
from arvbench.adapters.latents.mlp_head import MlpHead


class MaskedTransformer(nn.Module, ABC):
    """Computations of both families; each builds its modules, in the order of the official file."""

    phases: ClassVar[int] = 1
    config: MaskedConfig
    fake_latent: nn.Parameter
    """(1, C): embedding of the null class."""
    class_emb: nn.Embedding
    encoder_pos_embed_learned: nn.Parameter
    """(1, phases * L, C)."""
    z_proj_ln: LayerNorm
    encoder_norm: LayerNorm
    decoder_embed: nn.Linear
    mask_token: nn.Parameter
    """(1, phases * N, C), or (1, 1, C) for all places."""
    decoder_pos_embed_learned: nn.Parameter
    """(1, phases * L, C)."""
    decoder_norm: LayerNorm
    diffusion_pos_embed_learned: nn.Parameter
    """(1, N, C)."""
    diffloss: nn.ModuleDict

    @property
    def token_head(self) -> MlpHead:
        """Denoising head of single tokens."""
        return cast(MlpHead, self.diffloss["net"])

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return no buffers: the official file has parameters alone."""
        return {}

    def classes(self, labels_R: Tensor) -> Tensor:
        """Embeddings (R, 1, C) of classes; the null class has one of its own."""
        table = torch.cat((self.class_emb.weight, self.fake_latent))
        return F.embedding(labels_R, table).unsqueeze(1)

    @abstractmethod
    def run(self, part: str, x_RlC: Tensor, phase: int) -> Tensor:
        """Run the blocks of "encoder" or "decoder" on embedded tokens."""

    def conditions(self, x_RkC: Tensor, places_Rk: Tensor, classes_R1C: Tensor, phase: int = 0) -> Tensor:
        """Conditions (R, N, C) of all tokens, given embedded ones at the places `places_Rk`."""
        buffer, rows = self.config.buffer_size, len(x_RkC)
        x_RlC = torch.cat((classes_R1C.expand(-1, buffer, -1), x_RkC), dim=1)
        in_front = torch.arange(buffer, device=places_Rk.device).expand(rows, -1)
        places_Rl = torch.cat((in_front, places_Rk + buffer), dim=1)
        positions_RLC = self._of_phase(self.encoder_pos_embed_learned, phase).expand(rows, -1, -1)
        x_RlC = self.run("encoder", self.z_proj_ln(x_RlC + at(positions_RLC, places_Rl)), phase)
        x_RlC = self.decoder_embed(self.encoder_norm(x_RlC))
        positions_1LC = self._of_phase(self.decoder_pos_embed_learned, phase)
        masks_1XC = self.mask_token if self.mask_token.shape[1] == 1 else self._of_phase(self.mask_token, phase)
        masks_RNC = masks_1XC.expand(rows, positions_1LC.shape[1] - buffer, -1)
        x_RLC = torch.cat((x_RlC[:, :buffer], put(masks_RNC, places_Rk, x_RlC[:, buffer:])), dim=1)
        x_RLC = self.decoder_norm(self.run("decoder", x_RLC + positions_1LC, phase))
        z_RNC: Tensor = x_RLC[:, buffer:] + self.diffusion_pos_embed_learned
        return z_RNC

    def _of_phase(self, table: Tensor, phase: int) -> Tensor:
        return table.chunk(self.phases, dim=1)[phase]
