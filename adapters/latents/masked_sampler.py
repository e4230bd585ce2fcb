"""Sampling of masked models: what their families share beside their passes.

A pass attends to known tokens in both directions, and the next one knows others: nothing can be kept between them.

Shapes   B images, R forward rows (conditional, then unconditional), n tokens of one pass, N of a map, C width, X
         further dimensions
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import CacheShape
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.latents.diffusion import process_of
from arvbench.adapters.latents.masked import MaskedPass, MaskedSettings
from arvbench.adapters.latents.masked_transformer import MaskedTransformer
from arvbench.adapters.latents.mlp_head import Denoised, TokenDraws, denoise_tokens
from arvbench.adapters.latents.sampler import LatentSampler
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.sampling import Noise
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError

NO_CACHE = "none"


class Given(NamedTuple):
    """Input of all passes of a call."""

    classes_R1C: Tensor
    orders: tuple[Tensor, ...]
    """(B, N) int64 for each map: places in the order in which they stay masked."""
    settings: Any
    """Settings of the family."""
    noise: Noise

    @property
    def guided(self) -> bool:
        """True when there are unconditional rows."""
        return len(self.classes_R1C) > len(self.orders[0])

    def rows(self, x_BX: Tensor) -> Tensor:
        """Repeat a tensor for the unconditional rows, if there are any."""
        return torch.cat((x_BX, x_BX)) if self.guided else x_BX


class MaskedSampler(LatentSampler):
    """A model that predicts masked tokens in random order."""

    memory: ClassVar = ("nothing",)
    official_cache: ClassVar = NO_CACHE
    default_cache: ClassVar = NO_CACHE

    @property
    def transformer(self) -> MaskedTransformer:
        return cast(MaskedTransformer, self._modules["transformer"])

    @classmethod
    @abstractmethod
    def passes(cls, config: Any, settings: MaskedSettings) -> tuple[MaskedPass, ...]:
        """All passes of a call. Raises UserError for a number of passes of which some would predict nothing."""

    @classmethod
    def step_count(cls, spec: ModelSpec, groups: Sequence[int]) -> int:
        return len(cls.passes(spec.transformer, cast(MaskedSettings, spec.settings)))

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        super().check_settings(spec, settings)
        try:
            cls.passes(spec.transformer, cast(MaskedSettings, settings))
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error

    @classmethod
    def check_cache(cls, spec: ModelSpec, policy: str, settings: SamplingSettings) -> None:
        name = read_request(policy).name
        if name in CACHE_POLICIES and name != NO_CACHE:
            raise UserError(
                f"{spec.name} keeps no cache, so policy {policy} does not apply: every pass attends in both "
                "directions, and each token changes all keys and values"
            )
        super().check_cache(spec, policy, settings)

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> CacheShape:
        return CacheShape(
            layers=0, rows=self.rows(settings, batch), heads=0, head_dim=0, capacity_tokens=0,
            dtype=self.dtype, device=self.device,
        )  # fmt: skip

    def rows(self, settings: SamplingSettings, batch: int) -> int:
        """Forward rows R: one per image, two with guidance; the official code too has one at a scale of 1."""
        return 2 * batch if settings.cfg > 1 else batch

    def given(self, labels_R: Tensor, images: int, settings: SamplingSettings, noise: Noise) -> Given:
        """Embed the classes of a call, and draw the orders of its tokens."""
        orders = noise.orders(images, self.group_sizes(self.spec.transformer), self.device)
        return Given(self.transformer.classes(labels_R), orders, settings, noise)

    def denoise_singly(self, z_RnC: Tensor, part: MaskedPass, cfg: float, index: int, given: Given) -> Denoised:
        """Denoise the tokens of pass number `index` of the call, each by itself under its condition."""
        settings, first = given.settings, index * TokenDraws.count(given.settings.num_steps)
        return denoise_tokens(
            self.transformer.token_head,
            z_RnC,
            process_of(settings.num_steps, settings.last_number),
            strength=part.strength(settings, cfg) if given.guided else None,
            temperature=settings.temperature,
            draws=TokenDraws(given.noise, first, given.guided and self.draws_all(given.noise)),
        )
