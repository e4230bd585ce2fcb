"""The sampling interface: everything a model is to the harness.

One shape for all families: a sequence of steps, each of which feeds new tokens that attend to context tokens,
writes cached tokens and yields token ids; then a tokenizer decodes them.

Shapes   B images, R forward rows (2B with classifier-free guidance), l tokens of one step, L tokens of all steps,
         V codebook entries, H W image height and width
Range    logits natural-log, fp32; decoded images float in [0, 1]; images uint8 0..255 NCHW
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from arvbench.adapters.cache.base import KVCache
from arvbench.adapters.common.precision import cast_except
from arvbench.adapters.sampling import Noise
from arvbench.adapters.schedule import Schedule, Step
from arvbench.errors import UserError
from arvbench.kernels.dispatch import select

NULL_LABEL = -1
"""Label that asks for the null class (generation without a class)."""

Backend = Literal["reference", "optimized"]


class SamplingSettings(BaseModel):
    """How tokens are drawn. Families add their own fields; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cfg: float = Field(ge=0, description="classifier-free guidance strength; 0 samples the conditional model")
    top_k: int | None = Field(default=None, ge=1, description="keep the k most likely tokens; None keeps all")
    top_p: float | None = Field(default=None, gt=0, le=1, description="nucleus mass to keep; None keeps all")
    uint8_rule: Literal["truncate", "round"] = "truncate"
    """How a float in [0, 1] becomes a byte: truncate = int(255 x), round = int(255 x + 0.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where the official weights are: file names as published, and the Hugging Face repository that has them."""

    transformer_file: str
    tokenizer_file: str
    hub_repo: str
    transformer_nesting: tuple[tuple[str, ...], ...] = ()
    """Key paths under which training checkpoints keep the transformer, tried in order after the flat file."""
    tokenizer_nesting: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What is known about one model before its weights are loaded."""

    name: str
    family: str
    sampler: type[Sampler]
    """The family's adapter, which builds the modules and samples."""
    image_px: int
    num_classes: int
    vocab_size: int
    steps: int
    """Transformer passes of one sampling call under the official settings."""
    tokens: int
    """Tokens of one image, all steps."""
    transformer: Any
    """Configuration of the transformer, a frozen dataclass of the family."""
    tokenizer: Any
    """Configuration of the tokenizer, a frozen dataclass."""
    settings: SamplingSettings
    """The official sampling settings."""
    settings_source: str
    """Where the settings are stated."""
    checkpoint: Checkpoint | None
    """None for a model that nobody has released."""
    demo: bool = False
    """True when trained weights are part of this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """Identity of the weights that were loaded."""

    source: str
    """The `weights=` argument: "demo", "hub", "random:SEED" or a path."""
    random: bool
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> digest; empty for random weights, whose seed says everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What a step produced; tensors are the sampler's own and must not be changed."""

    logits_pre_cfg: Tensor
    """(R, l, V): conditional rows first, then unconditional."""
    logits: Tensor
    """(B, l, V): after CFG, before top-k and top-p."""
    tokens: Tensor
    """(B, l) int64, raster order."""
    state: Tensor
    """What the tokens add up to so far; for residual tokenizers f_hat (B, C, h, w)."""


class Observer(Protocol):
    """Receives the events of one sampling call. All of measuring hangs here; adapters contain no timing code."""

    def step_begin(self, step: Step) -> None: ...
    def step_end(self, step: Step, output: StepOutput) -> None: ...
    def decode_begin(self) -> None: ...
    def decode_end(self, decoded: Tensor) -> None: ...


class SilentObserver:
    """An observer that does nothing; subclass it to listen to some events."""

    def step_begin(self, step: Step) -> None: ...
    def step_end(self, step: Step, output: StepOutput) -> None: ...
    def decode_begin(self) -> None: ...
    def decode_end(self, decoded: Tensor) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Result of one sampling call."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    decoded: Tensor
    """(B, 3, H, W) float in [0, 1], before the uint8 rule."""
    tokens: tuple[Tensor, ...]
    """Per step (B, l) int64."""
    labels: Tensor
    """(B,) int64; the null class is `num_classes`."""


class Sampler(ABC):
    """A loaded model that turns class labels into images.

    Attributes
    spec      what is known about the model
    weights   identity of what was loaded
    backend   "reference" (eager PyTorch, obviously right) or "optimized" (judged by the reference)
    kernels   operation -> implementation ("torch" or "triton") that this sampler calls
    """

    keep_fp32: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Part -> names of its children that stay in fp32 whatever the dtype."""

    def __init__(
        self,
        spec: ModelSpec,
        modules: Mapping[str, nn.Module],
        *,
        weights: WeightsInfo,
        backend: Backend,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Take the filled modules of `build_modules` and move them to `device` and `dtype`."""
        self.spec, self.weights, self.backend, self.device, self.dtype = spec, weights, backend, device, dtype
        self._modules = modules
        self._kernels = select(backend, device)
        for part, module in modules.items():
            cast_except(module.to(device).eval(), dtype, keep_fp32=self.keep_fp32.get(part, ()))

    @property
    def kernels(self) -> Mapping[str, str]:
        return self._kernels.names

    def modules(self) -> Mapping[str, nn.Module]:
        """The parts that hold weights, by name: "transformer" and "tokenizer"."""
        return self._modules

    @staticmethod
    @abstractmethod
    def build_modules(spec: ModelSpec) -> dict[str, nn.Module]:
        """The modules of `spec` on torch's current default device ("meta" builds them without memory)."""

    @abstractmethod
    def schedule(self, settings: SamplingSettings, *, batch: int) -> Schedule:
        """What `sample` will do for `batch` images: steps, FLOPs, bytes, cache bytes."""

    @abstractmethod
    def make_cache(self, policy: str | None, settings: SamplingSettings, *, batch: int) -> KVCache:
        """Build the KV cache named by `policy` (None: the backend's own choice) for `batch` images."""

    @abstractmethod
    def sample(
        self,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: KVCache | None = None,
        observer: Observer | None = None,
    ) -> Samples:
        """Generate one image per label.

        `labels` (B,) in 0..num_classes-1, or NULL_LABEL. `cache` must come from `make_cache` for this batch; it is
        reset first and may be used again. Raises UserError for labels or settings out of range.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Tokens per step, each (B, l), of images (B, 3, H, W) float in [-1, 1]."""

    @abstractmethod
    def decode(self, tokens: Sequence[Tensor]) -> Tensor:
        """Images (B, 3, H, W) float in [0, 1] of tokens per step."""

    @abstractmethod
    def teacher_forced(self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor) -> Tensor:
        """Logits (B, L, V) of every token given the true tokens before it, in one pass and without label drop."""

    @abstractmethod
    def loss(self, tokens: Sequence[Tensor], labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Scalar that training minimises, with label drop drawn from `generator` in training mode."""

    def check_labels(self, labels: Sequence[int] | Tensor) -> Tensor:
        """Return labels (B,) int64 on the device with NULL_LABEL replaced by the null class, or raise UserError."""
        try:
            labels_B = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"labels must be a list of integers: {error}") from error
        if labels_B.ndim != 1:
            raise UserError(f"labels must be a flat list, one per image, got shape {tuple(labels_B.shape)}")
        if labels_B.numel() == 0:
            raise UserError("there are no labels: batch 0 cannot be sampled")
        if labels_B.is_floating_point() or labels_B.is_complex():
            raise UserError(f"labels must be integers, got {labels_B.dtype}")
        bad = labels_B[(labels_B < NULL_LABEL) | (labels_B >= self.spec.num_classes)]
        if bad.numel():
            raise UserError(
                f"label {int(bad[0])} is out of range: {self.spec.name} has classes 0..{self.spec.num_classes - 1} "
                f"({NULL_LABEL} asks for the null class)"
            )
        labels_B = labels_B.to(self.device, torch.int64)
        return torch.where(labels_B == NULL_LABEL, self.spec.num_classes, labels_B)


def check_settings(spec: ModelSpec, settings: SamplingSettings) -> None:
    """Raise UserError when `settings` ask for what the model cannot do."""
    if settings.top_k is not None and settings.top_k > spec.vocab_size:
        raise UserError(f"top_k {settings.top_k} is larger than the vocabulary of {spec.name} ({spec.vocab_size})")


def from_uint8(images: Tensor) -> Tensor:
    """Turn images uint8 into float in [-1, 1], which `Sampler.encode` takes."""
    return images.float().div(127.5).sub(1)


def to_uint8(decoded: Tensor, rule: str) -> Tensor:
    """Turn images float in [0, 1] into uint8 by the named rule."""
    scaled = decoded.float().mul(255)
    return (scaled.add_(0.5) if rule == "round" else scaled).clamp_(0, 255).to(torch.uint8)
