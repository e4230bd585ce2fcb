"""Sampling of masked models: what their families share beside their passes.

A pass attends to known tokens in both directions, and the next one knows others: nothing can be kept between them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import CacheShape
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.latents.masked import MaskedPass, MaskedSettings
from arvbench.adapters.latents.sampler import LatentSampler
from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError

NO_CACHE = "none"


class MaskedSampler(LatentSampler):
    """A model that predicts masked tokens in random order."""

    memory: ClassVar = ("nothing",)
    official_cache: ClassVar = NO_CACHE
    default_cache: ClassVar = NO_CACHE

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
