"""The sampling interface: everything a model is to the harness.

One shape for all families: a sequence of steps, each of which feeds new tokens that attend to context tokens,
writes cached tokens and yields token ids; then a tokenizer decodes them.

Shapes   B images, R forward rows (2B with classifier-free guidance), l tokens of one step, L tokens of all steps,
         V codebook entries, H W image height and width
Range    logits natural-log, fp32; decoded images float, nominally in [0, 1]; images uint8 0..255 NCHW
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.common.precision import cast_except
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampling import Noise
from arvbench.adapters.schedule import Schedule, Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import ContractError, UnknownName, UserError
from arvbench.kernels.dispatch import select

NULL_LABEL = -1
"""Label that asks for the null class (generation without a class)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where the official weights are: file names as published, and the Hugging Face repository that has them."""

    transformer_file: str
    tokenizer_file: str
    hub_repo: str
    tokenizer_repo: str = ""
    """Repository of the tokenizer's file; empty means the same one."""
    transformer_nesting: tuple[tuple[str, ...], ...] = ()
    """Key paths under which training checkpoints keep the transformer, tried in order after the flat file."""
    tokenizer_nesting: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Sizes that follow from a model's configuration and official settings."""

    image_px: int
    num_classes: int
    vocab_size: int
    steps: int
    """Transformer passes of one sampling call."""
    tokens: int
    """Tokens of one image, all steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Facts about one model that need no weights. The sampler class derives the sizes (`Sampler.sizes`)."""

    name: str
    sampler: type[Sampler]
    """The family's adapter, which builds the modules and samples."""
    transformer: Any
    """Configuration of the transformer, a frozen dataclass of the family."""
    tokenizer: Any
    """Configuration of the tokenizer, a frozen dataclass."""
    settings: SamplingSettings
    """The official sampling settings."""
    settings_source: str
    """Where the settings are stated."""
    checkpoint: Checkpoint | None = None
    """None for a model that nobody has released."""
    demo: bool = False
    """True when trained weights are part of this package."""
    no_recipe: str = ""
    """Reason why nobody has published how the samples behind a number of this model were drawn."""
    image_px: int = field(init=False)
    num_classes: int = field(init=False)
    vocab_size: int = field(init=False)
    steps: int = field(init=False)
    """Transformer passes of one sampling call under the official settings."""
    tokens: int = field(init=False)
    """Tokens of one image, all steps."""

    def __post_init__(self) -> None:
        for name, size in asdict(self.sampler.sizes(self)).items():
            object.__setattr__(self, name, size)

    @property
    def family(self) -> str:
        return self.sampler.family


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
    """(B, l) int64: what was drawn in this step, raster order inside a scale."""
    redrawn: Tensor | None = None
    """(B, n) int64: positions that a mask refinement draws again; None in other steps."""
    state: Tensor
    """What the tokens add up to so far: f_hat (B, C, h, w) of residual tokenizers, the code map of the last scale
    (B, C, h, w) in FlexVAR, all ids drawn so far (B, T) of one-resolution tokenizers.
    """


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
    """(B, 3, H, W) float, nominally in [0, 1], before the uint8 rule; `Sampler.decode` says what is clamped."""
    tokens: tuple[Tensor, ...]
    """The image's tokens in the order of generation, (B, l) int64 per group: a scale, or a forward pass."""
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

    family: ClassVar[str]
    """Name of the family in tables and records."""
    keep_fp32: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Part -> names that stay in fp32 whatever the dtype (arvbench.adapters.common.precision)."""
    cache_policies: ClassVar[tuple[str, ...]] = ("grow", "static")
    """Names of the cache policies that the family can run with."""
    default_cache: ClassVar[Mapping[str, str]] = {"reference": "grow", "optimized": "static"}
    """What a backend takes when it is not told: the reference does what the official code does."""

    def __init__(
        self,
        spec: ModelSpec,
        modules: Mapping[str, nn.Module],
        *,
        weights: WeightsInfo,
        backend: str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Take the filled modules of `build_modules` and move them to `device` and `dtype`."""
        self.spec, self.weights, self.backend, self.device, self.dtype = spec, weights, backend, device, dtype
        self._modules = modules
        self._kernels = select(backend, device)
        self._plans: dict[tuple[str, int, str], Schedule] = {}
        for part, module in modules.items():
            cast_except(module.to(device).eval(), dtype, keep_fp32=self.keep_fp32.get(part, ()))

    @property
    def kernels(self) -> Mapping[str, str]:
        return self._kernels.names

    def modules(self) -> Mapping[str, nn.Module]:
        """The parts that hold weights, by name: "transformer" and "tokenizer"."""
        return self._modules

    @classmethod
    @abstractmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        """Derive the sizes of `spec` from its configurations and official settings."""

    @staticmethod
    @abstractmethod
    def build_modules(spec: ModelSpec) -> dict[str, nn.Module]:
        """The modules of `spec` on torch's current default device ("meta" builds them without memory)."""

    @classmethod
    def adapt_spec(cls, spec: ModelSpec, transformer: Mapping[str, Tensor]) -> ModelSpec:
        """`spec` with what the transformer's file itself decides about the configuration; unchanged by default."""
        return spec

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        """Raise UserError when `settings` ask for what the model cannot do; families add their own checks."""
        if not isinstance(settings, kind := type(spec.settings)):
            raise UserError(f"{spec.name} takes {kind.__name__}, got {type(settings).__name__}")
        if settings.top_k is not None and settings.top_k > spec.vocab_size:
            raise UserError(f"top_k {settings.top_k} is larger than the vocabulary of {spec.name} ({spec.vocab_size})")

    def image_shape(self, settings: SamplingSettings) -> tuple[int, int]:
        """Height and width of the images that `settings` make, in pixels."""
        return self.spec.image_px, self.spec.image_px

    @abstractmethod
    def schedule(self, settings: SamplingSettings, *, batch: int, cache: str | None = None) -> Schedule:
        """What `sample` will do for `batch` images under the cache policy `cache` (None: the backend's own choice):
        steps, FLOPs, bytes, cache bytes.
        """

    @classmethod
    def check_cache(cls, spec: ModelSpec, policy: str, settings: SamplingSettings) -> None:
        """Raise UnknownName or UserError for a cache policy that the family cannot run `settings` with."""
        if policy not in CACHE_POLICIES:
            raise UnknownName("cache policy", policy, CACHE_POLICIES)
        if policy not in cls.cache_policies:
            raise UserError(f"{spec.name} has no cache policy {policy!r}; it has: {', '.join(cls.cache_policies)}")

    @abstractmethod
    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> Any:
        """Everything that decides the size of a cache of `policy` for `batch` images, a frozen dataclass."""

    def make_cache(self, policy: str | None, settings: SamplingSettings, *, batch: int) -> Cache:
        """Build the cache named by `policy` (None: the backend's own choice) for `batch` images.

        Raises UnknownName for a policy that the family cannot run with.
        """
        policy = policy or self.default_cache[self.backend]
        self.check_cache(self.spec, policy, settings)
        return CACHE_POLICIES[policy](self.cache_shape(policy, settings, batch=batch))

    @abstractmethod
    def sample(
        self,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: Cache | None = None,
        observer: Observer | None = None,
    ) -> Samples:
        """Generate one image per label.

        `labels` (B,) in 0..num_classes-1, or NULL_LABEL. `cache` must come from `make_cache` for this batch; it is
        reset first and may be used again. Raises UserError for labels or settings out of range.
        """

    # Tokens of an image have one form everywhere: one tensor (B, l) per group, in the order of generation, as
    # `Samples.tokens` has them. `settings` matter where they decide the groups (FlexVAR's scales); None takes the
    # official ones.

    @abstractmethod
    def encode(self, images: Tensor, *, settings: SamplingSettings | None = None) -> tuple[Tensor, ...]:
        """Tokens of images (B, 3, H, W) float in [-1, 1]."""

    @abstractmethod
    def decode(self, tokens: Sequence[Tensor], *, settings: SamplingSettings | None = None) -> Tensor:
        """Images (B, 3, H, W) float of tokens: (x + 1) / 2 of what the family's decoder returns.

        The multi-scale VQ-VAE clamps it to [0, 1], as its official decoder does; VQ decoders do not clamp.
        """

    @abstractmethod
    def teacher_forced(
        self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor, *, settings: SamplingSettings | None = None
    ) -> Tensor:
        """Logits (B, L, V) of every token given the true tokens before it, in one pass and without label drop."""

    @abstractmethod
    def loss(
        self,
        tokens: Sequence[Tensor],
        labels: Tensor,
        *,
        settings: SamplingSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scalar that training minimises, with label drop drawn from `generator` in training mode."""

    def drop_labels(self, labels_B: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
        """Labels of a training step: each becomes the null class with probability `rate`."""
        u_B = torch.rand(len(labels_B), generator=generator).to(self.device)
        return labels_B.masked_fill(u_B < rate, self.spec.num_classes)

    def ready_cache(self, cache: Cache | None, settings: SamplingSettings, *, batch: int) -> Cache:
        """The cache that a sampling call uses: the caller's, or a new one; empty. ContractError if it does not fit."""
        if cache is None:
            return self.make_cache(None, settings, batch=batch)
        self.check_cache(self.spec, cache.policy, settings)
        if cache.shape != (needed := self.cache_shape(cache.policy, settings, batch=batch)):
            raise ContractError(f"this call needs a cache of {needed}, got one of {cache.shape}")
        cache.reset()
        return cache

    def cached_schedule(self, settings: SamplingSettings, *, batch: int, cache: str) -> Schedule:
        """`schedule`, made once for equal arguments: a sampling call does not pay for the arithmetic of its plan."""
        key = (settings.model_dump_json(), batch, cache)
        if key not in self._plans:
            self._plans[key] = self.schedule(settings, batch=batch, cache=cache)
        return self._plans[key]

    def finish(
        self, tokens: Sequence[Tensor], decoded: Tensor, labels_B: Tensor, settings: SamplingSettings
    ) -> Samples:
        """The result of a sampling call, with images as bytes."""
        images = to_uint8(decoded, settings.uint8_rule)
        return Samples(images=images, decoded=decoded, tokens=tuple(tokens), labels=labels_B)

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
