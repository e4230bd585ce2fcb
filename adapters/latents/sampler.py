"""Sampling of models with continuous tokens: what their families share beside the loop over steps.

A step yields latents, denoised by a solver in inner passes of the network. There are no ids, so the filters of logits
do not apply, and training minimises the error of predicted velocities or noise.

Shapes   B images, l tokens of one step, L tokens of all steps, K latent channels, h w sides of the latent map
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from arvbench.adapters.call import SamplingCall
from arvbench.adapters.pixels import to_unit_range
from arvbench.adapters.sampler import ModelSizes, ModelSpec, Sampler
from arvbench.adapters.sampling import Noise, keeps_order
from arvbench.adapters.settings import SamplingSettings, Uint8Rule
from arvbench.adapters.tokenizers.kl import KlVae
from arvbench.adapters.tokenizers.tokenizer import decode_flops
from arvbench.errors import UserError
from arvbench.kernels.dispatch import KernelSet

FORCED_SEED = 0
"""Seed of times and noise of a training pass outside training."""


class LatentSettings(SamplingSettings):
    """`cfg` is the guidance scale in uncond + cfg (cond - uncond) of the last step; values up to 1 disable guidance."""

    cfg: float = Field(ge=0, description="scale of classifier-free guidance; up to 1 samples the conditional model")
    num_steps: int = Field(ge=1, le=1000, description="steps of the solver; each is an evaluation of the network")
    uint8_rule: Uint8Rule = "round"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDraw:
    """Times and noise of one training pass."""

    times: Tensor
    """(B, n): one in 0..1 per image and group of tokens, or the number of a diffusion step per token."""
    noise_BLK: Tensor
    order_BN: Tensor | None = None
    """Random order of the tokens; None where the family has none."""
    masked: int = 0
    """First tokens of the order that are masked."""


class TrainingPass(ABC):
    """Predictions of one training pass, and their loss."""

    predicted: Tensor
    """(B, L, K) fp32."""

    @abstractmethod
    def loss(self) -> Tensor:
        """Return the loss, scalar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VelocityPass(TrainingPass):
    """Velocities (B, L, K) fp32, noise minus data, and the weight of every token in the loss."""

    predicted: Tensor
    target: Tensor
    weights_L: Tensor

    def loss(self) -> Tensor:
        """Return the weighted mean squared error, scalar."""
        errors_L = (self.predicted - self.target).square().mean(dim=(0, 2))
        return (errors_L * self.weights_L).sum()


class LatentSampler(Sampler):
    """A model with continuous tokens behind the sampling interface."""

    tokenizer_class: ClassVar[type[KlVae]] = KlVae
    # The official code keeps the tokenizer in fp32 when it casts the transformer.
    keep_fp32: ClassVar = {"tokenizer": ("encoder", "decoder", "quant_conv", "post_quant_conv")}

    @property
    def tokenizer(self) -> KlVae:
        return cast(KlVae, self._modules["tokenizer"])

    @classmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        config, groups = spec.transformer, cls.group_sizes(spec.transformer)
        return ModelSizes(
            image_px=config.grid * spec.tokenizer.downsample,
            num_classes=config.class_num,
            steps=cls.step_count(spec, groups),
            tokens=sum(groups),
            latent_dim=config.vae_embed_dim,
        )

    @classmethod
    def step_count(cls, spec: ModelSpec, groups: Sequence[int]) -> int:
        """Steps under the official settings: one for every group."""
        return len(groups)

    @staticmethod
    @abstractmethod
    def group_sizes(config: Any) -> tuple[int, ...]:
        """Tokens of each group, which a step yields, or several steps together."""

    @abstractmethod
    def split(self, map_BKhw: Tensor) -> tuple[Tensor, ...]:
        """Latents (B, l, K) of every group, of a whole map."""

    def join(self, state_BLK: Tensor) -> Tensor:
        """Map (B, K, h, w) to decode, of the latents of all groups: by default the last one, in raster order."""
        side: int = self.spec.transformer.grid
        map_BKhw: Tensor = state_BLK[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))
        return map_BKhw

    @abstractmethod
    def draw_training(self, batch: int, generator: torch.Generator) -> TrainingDraw:
        """Draw times and noise of a training pass, on the CPU."""

    @abstractmethod
    def training_pass(self, tokens: Sequence[Tensor], labels_B: Tensor, draw: TrainingDraw) -> TrainingPass:
        """Predict velocities or noise of all tokens in one pass, as in training."""

    def rows(self, settings: SamplingSettings, batch: int) -> int:
        """Forward rows R: one per image, two with guidance; the official code always computes two."""
        return 2 * batch if settings.cfg > 1 or self.official else batch

    def decode_flops(self, settings: SamplingSettings) -> int:
        side: int = self.spec.transformer.grid
        return decode_flops(self.tokenizer_class, self.spec.tokenizer, (side, side))

    def tokens_of(self, images: Tensor, settings: SamplingSettings) -> tuple[Tensor, ...]:
        """Encode images into the means of their latents."""
        return self.split(self.tokenizer.finite_features(images))

    def state_of(self, tokens: Sequence[Tensor], settings: SamplingSettings) -> Tensor:
        """Latents (B, L, K) of all groups; UserError for those of another model, or with a NaN."""
        expected = [(size, self.spec.latent_dim) for size in self.group_sizes(self.spec.transformer)]
        if [tuple(t.shape[1:]) for t in tokens] != expected or any(len(t) != len(tokens[0]) for t in tokens):
            shapes = ", ".join("x".join(map(str, t.shape)) for t in tokens) or "none"
            wanted = ", ".join(f"batch x {size} x {dim}" for size, dim in expected)
            raise UserError(f"latents must be {wanted} for {self.spec.name}, all of one batch, got {shapes}")
        state_BLK = torch.cat([t.to(self.device, torch.float32) for t in tokens], dim=1)
        if not bool(state_BLK.isfinite().all()):
            raise UserError(f"latents for {self.spec.name} hold NaN or infinity: no image can be made of them")
        return state_BLK

    def decode_state(self, state: Tensor) -> Tensor:
        return to_unit_range(self.tokenizer.decode_map(self.laid_out(self.join(state))))

    def forced_logits(
        self, tokens: Sequence[Tensor], labels_B: Tensor, settings: SamplingSettings, kernels: KernelSet
    ) -> Tensor:
        """Velocities or noise (B, L, K) as the training pass predicts them at seeded times and noise."""
        return self._training_pass(tokens, labels_B, None).predicted

    def loss(
        self,
        tokens: Sequence[Tensor],
        labels: Tensor,
        *,
        settings: SamplingSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Loss of the training pass; `generator` draws label drop, times and noise."""
        return self._training_pass(tokens, self.training_labels(labels, generator), generator).loss()

    def _training_pass(
        self, tokens: Sequence[Tensor], labels_B: Tensor, generator: torch.Generator | None
    ) -> TrainingPass:
        self.state_of(tokens, self.spec.settings)
        generator = generator or torch.Generator().manual_seed(FORCED_SEED)
        return self.training_pass(tokens, labels_B, self.draw_training(len(labels_B), generator))

    def draws_all(self, noise: Noise) -> bool:
        """Return True where noise is drawn that no latent depends on: officially, and to keep a stream in order."""
        return self.official or keeps_order(noise)

    @property
    def label_drop(self) -> float:
        drop: float = self.spec.transformer.label_drop_prob
        return drop

    @torch.no_grad()
    def forced_latents(
        self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor, settings: SamplingSettings, noise: Noise
    ) -> tuple[Tensor, ...]:
        self.state_of(tokens, settings)
        labels_B = self.check_labels(labels)
        labels_2B = torch.cat((labels_B, torch.full_like(labels_B, self.spec.num_classes)))
        schedule = self.schedule(settings, batch=len(labels_B))
        return self.denoised_again(tokens, labels_2B[: schedule.rows], settings, noise)

    @abstractmethod
    def denoised_again(
        self, tokens: Sequence[Tensor], labels_R: Tensor, settings: SamplingSettings, noise: Noise
    ) -> tuple[Tensor, ...]:
        """Latents of every step as in `forced_latents`, for checked input."""


def rows_of(call: SamplingCall, x_BlK: Tensor, rows: int) -> Tensor:
    """Repeat a state for the unconditional rows, if there are any."""
    return x_BlK.repeat(2, 1, 1) if rows > call.schedule.images else x_BlK
