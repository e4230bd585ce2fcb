"""The sampling interface: all that the harness knows of a model.

Sampling is a sequence of steps in every family. A step feeds new tokens, attends to context tokens, writes to the cache
and yields tokens: ids that it draws, or latents that it denoises in inner passes. A tokenizer decodes them at the end.

Tokens are stored as one tensor (B, l) of ids, or (B, l, K) of latents, per group, in the order of generation. A group
is a scale or a forward pass; in FlexVAR the settings decide the scales.

Shapes   B images, R forward rows (2B with classifier-free guidance), l tokens of one step, L tokens of all steps,
         V codebook entries, K latent channels, H W image height and width
Range    logits natural-log, fp32; decoded images float, nominally in [0, 1]; images uint8 0..255 NCHW
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.check import check_policy, check_weights
from arvbench.adapters.cache.policy import Cache, Memory, TokenOrder
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.call import Observer, Outcome, Samples, SamplingCall, SilentObserver
from arvbench.adapters.common import linear
from arvbench.adapters.common.precision import cast_except
from arvbench.adapters.editing import KnownPixels, KnownTokens
from arvbench.adapters.graphs import CallGraphs, Capture, CudaCapture, GraphMode
from arvbench.adapters.labels import NULL_LABEL as NULL_LABEL
from arvbench.adapters.labels import checked_labels
from arvbench.adapters.model_files import Checkpoint as Checkpoint
from arvbench.adapters.model_files import ModelSizes as ModelSizes
from arvbench.adapters.model_files import WeightsInfo as WeightsInfo
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampling import Noise
from arvbench.adapters.schedule import Schedule, Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.spec import ModelSpec as ModelSpec
from arvbench.adapters.tokenizers.tokenizer import CHANNELS_LAST, HALF_DECODE, decode_traffic, gains_channels_last
from arvbench.adapters.work import StepWork
from arvbench.errors import ContractError, UserError
from arvbench.kernels.backends import Kernels, backend_named
from arvbench.kernels.dispatch import KernelSet, select


class Sampler(ABC):
    """A loaded model that turns class labels into images.

    A family overrides the abstract methods; all families share the rest.

    Attributes
    spec      description of the model
    weights   identity of the loaded weights
    backend   name in arvbench.kernels.backends
    official  True when the backend repeats even the redundant work of the official code
    graphs    recordings of calls that are replayed (adapters.graphs); None: every call runs
    half_decoder  decoder of calls in bfloat16 (adapters.decoding); None: the tokenizer's own
    sort_all  True when filters may not look at logits on the host
    kernels   operation -> implementation in use; `packed` tells that of linear layers
    """

    family: ClassVar[str]
    """Name of the family in tables and records."""
    transformer_class: ClassVar[type[nn.Module]]
    tokenizer_class: ClassVar[type[nn.Module]]
    keep_fp32: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Module -> names of tensors that stay in fp32 (arvbench.adapters.common.precision)."""
    memory: ClassVar[tuple[Memory, ...]] = ("keys and values",)
    """Kinds of memory that the family supports, each with all its cache policies."""
    official_cache: ClassVar[str] = "grow"
    """Default cache policy of backends that follow the official code."""
    default_cache: ClassVar[str] = "static"
    """Default cache policy of all other backends."""
    edits: ClassVar[bool] = False
    """True when the family supports zero-shot editing (`sample(known=...)`)."""

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
        """Take the modules of `build_modules`, weights loaded, and move them to `device` and `dtype`."""
        self.spec, self.weights, self.backend, self.device, self.dtype = spec, weights, backend, device, dtype
        self.official = backend_named(backend).official
        self._modules = modules
        self.half_decoder: Sampler | None = None
        self.use_kernels("backend")
        self.use_graphs(partial(CudaCapture, device) if backend_named(backend).graphs_on(device.type) else None)
        self._schedules: dict[tuple[str, int, str], Schedule] = {}
        for part, module in modules.items():
            cast_except(module.to(device).eval(), dtype, keep_fp32=self.keep_fp32.get(part, ()))
        self._channels_last = backend_named(backend).onednn and gains_channels_last(modules["tokenizer"], device)

    @property
    def kernels(self) -> Mapping[str, str]:
        own = {"decode": HALF_DECODE} if self.half_decoder else {}
        return self._kernels.described() | own | ({"convolution": CHANNELS_LAST} if self._channels_last else {})

    def use_kernels(self, kernels: Kernels | KernelSet) -> None:
        """Run other kernels than the backend's (arvbench.kernels.dispatch.select; errors as there)."""
        self._kernels = kernels if isinstance(kernels, KernelSet) else select(self.backend, self.device, kernels)

    def modules(self) -> Mapping[str, nn.Module]:
        """The modules with weights, by name: "transformer" and "tokenizer"."""
        return self._modules

    @classmethod
    def build_modules(cls, spec: ModelSpec) -> dict[str, nn.Module]:
        """Build the modules of `spec` on torch's current default device ("meta" builds them without memory)."""
        return {
            "transformer": cls.transformer_class(spec.transformer),
            "tokenizer": cls.tokenizer_class(spec.tokenizer),
        }

    @classmethod
    def adapt_spec(cls, spec: ModelSpec, transformer: Mapping[str, Tensor]) -> ModelSpec:
        """Return `spec` with the configuration fields that the transformer's file decides."""
        return spec

    @classmethod
    @abstractmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        """Derive the sizes of `spec` from its configurations and official settings."""

    @classmethod
    def check_settings(cls, spec: ModelSpec, settings: SamplingSettings) -> None:
        """Raise UserError when the model cannot follow `settings`; families add their own checks."""
        if not isinstance(settings, kind := type(spec.settings)):
            raise UserError(f"{spec.name} takes {kind.__name__}, got {type(settings).__name__}")
        filters = [name for name in ("top_k", "top_p") if getattr(settings, name) is not None]
        if spec.vocab_size is None and filters:
            raise UserError(f"{filters[0]} does not apply to {spec.name}: its steps yield latents, and draw no ids")
        if spec.vocab_size is not None and settings.top_k is not None and settings.top_k > spec.vocab_size:
            raise UserError(f"top_k {settings.top_k} is larger than the vocabulary of {spec.name} ({spec.vocab_size})")

    def image_shape(self, settings: SamplingSettings) -> tuple[int, int]:
        """Height and width of the generated images, in pixels."""
        return self.spec.image_px, self.spec.image_px

    def schedule(self, settings: SamplingSettings, *, batch: int, cache: str | None = None) -> Schedule:
        """Plan the call for `batch` images under the cache policy `cache` (None: the backend's default).

        Schedules are memoised, so that repeated sampling calls do not recompute them.
        """
        policy = self.cache_policy(cache, settings)
        key = (settings.model_dump_json(), batch, policy)
        if key not in self._schedules:
            steps = tuple(self.steps(policy, settings, batch=batch))
            flops = batch * self.decode_flops(settings)
            read, dtype = decode_traffic(self._modules["tokenizer"], 3 * batch * math.prod(self.image_shape(settings)))
            self._schedules[key] = Schedule(
                steps=steps, images=batch, decode_flops=flops, decode_bytes=read, decode_dtype=dtype
            )
        return self._schedules[key]

    def packed(self, schedule: Schedule) -> list[linear.PackableLinear]:
        """Return the layers that run on packed weights in the calls of `schedule` (adapters.common.linear)."""
        return linear.packed_layers(self._modules["transformer"], schedule, self.backend, self.dtype)

    def products(self, schedule: Schedule) -> dict[str, str]:
        """Name the kinds of linear layers that oneDNN computes in the calls of `schedule`."""
        kinds = {"linear": self.packed(schedule), "linear_gelu": self.gelu_at_once()}
        return {name: "onednn" for name, layers in kinds.items() if layers}

    def gelu_at_once(self) -> list[linear.GeluLinear]:
        """Return the layers whose GELU is computed within the product in calls (adapters.common.linear)."""
        return linear.gelu_layers(self._modules["transformer"], self.backend, self.dtype)

    @abstractmethod
    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        """Plan the forward passes for `batch` images under the cache policy `policy`."""

    def work(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[StepWork]:
        """Work of every pass; empty for a family that does not state it."""
        return ()

    @abstractmethod
    def decode_flops(self, settings: SamplingSettings) -> int:
        """FLOPs of the tokenizer's decoder for one image."""

    @classmethod
    def cache_policies(cls) -> tuple[str, ...]:
        """Names of the exact cache policies that the family supports, in the order of `memory`."""
        exact = [(name, kind) for name, kind in CACHE_POLICIES.items() if not kind.lossy]
        return tuple(name for memory in cls.memory for name, kind in exact if kind.memory == memory)

    @classmethod
    def token_order(cls, spec: ModelSpec, settings: SamplingSettings) -> TokenOrder | None:
        """Order in which the steps feed tokens; None for a family that runs with exact policies alone."""
        return None

    @classmethod
    def check_cache(cls, spec: ModelSpec, policy: str, settings: SamplingSettings) -> None:
        """Raise UnknownName or UserError for a cache policy that the family does not support with `settings`."""
        order = partial(cls.token_order, spec, settings)
        check_policy(spec.name, policy, exact=cls.cache_policies(), memory=cls.memory, order=order)

    def cache_policy(self, name: str | None, settings: SamplingSettings) -> str:
        """Return `name`, or the backend's default policy for None; errors as `check_cache`."""
        policy = name or (self.official_cache if self.official else self.default_cache)
        self.check_cache(self.spec, policy, settings)
        return policy

    @abstractmethod
    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> Any:
        """Shape of a cache for `batch` images, a frozen dataclass; caches of equal shape are exchangeable."""

    def make_cache(self, policy: str | None, settings: SamplingSettings, *, batch: int) -> Cache:
        """Build the cache `policy` (None: the backend's default) for `batch` images; errors as `check_cache`."""
        policy = self.cache_policy(policy, settings)
        name, options = read_request(policy)
        check_weights(self.spec.name, options, self.weights)
        cache = CACHE_POLICIES[name].make(self.cache_shape(policy, settings, batch=batch), options)
        cache.policy = policy
        return cache

    @torch.no_grad()
    def sample(
        self,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: Cache | None = None,
        observer: Observer | None = None,
        known: KnownPixels | None = None,
    ) -> Samples:
        """Generate one image per label.

        `labels` (B,) in 0..num_classes-1, or NULL_LABEL. `cache` must come from `make_cache` for this batch; it is
        reset first and may be reused. With `known` images, only their unknown parts are drawn. Raises UserError,
        before any computation, for labels, settings or images that do not fit the model or each other.
        """
        self.check_settings(self.spec, settings)
        labels_B = self.check_labels(labels)
        batch, observer = len(labels_B), observer or SilentObserver()
        known_tokens = None if known is None else self.known_tokens(known, settings, batch=batch)
        cache = self._empty_cache(cache, settings, batch=batch)
        schedule = self.schedule(settings, batch=batch, cache=cache.policy)
        null_B = torch.full_like(labels_B, self.spec.num_classes)
        call = SamplingCall(
            labels_R=torch.cat((labels_B, null_B)) if schedule.rows > batch else labels_B,
            settings=settings,
            noise=noise,
            cache=cache,
            observer=observer,
            schedule=schedule,
            known=known_tokens,
        )
        linear.arrange(self._modules["transformer"], self.packed(schedule))
        # Inference mode prepares nothing for gradients: small calls take 0.8 to 0.95 of their time. Its tensors can be
        # neither changed in place nor trained on, so the caller gets copies.
        with linear.gelu_at_once(self.gelu_at_once()), torch.inference_mode():
            done = self.graphs.run(call) if self.graphs else self._run(call)
        done = done.cloned()
        call.check(done.decoded, self.spec.vocab_size)
        return Samples(images=done.images, decoded=done.decoded, tokens=done.tokens, labels=labels_B)

    def _run(self, call: SamplingCall) -> Outcome:
        tokens, state = self.generate(call)
        call.observer.decode_begin()
        decoded = (self.half_decoder or self).decode_drawn(state, call.noise).contiguous()
        call.observer.decode_end(decoded)
        images = to_uint8(decoded, call.settings.uint8_rule)
        return Outcome(tokens=tuple(tokens), decoded=decoded, images=images)

    def use_graphs(self, capture: Callable[[], Capture] | None, mode: GraphMode = "steps") -> None:
        """Record calls with recorders that `capture` makes, and replay them (adapters.graphs); None: run every call."""
        self.graphs = CallGraphs(self._run, capture, mode=mode) if capture else None
        # On a CPU the quicker filter looks at the logits.
        self.sort_all = self.official or capture is not None

    def edit(
        self, images: Tensor, keep: Tensor, labels: Sequence[int] | Tensor, settings: SamplingSettings, *, noise: Noise
    ) -> Samples:
        """Redraw `images` outside the mask `keep`; equals `sample` with known pixels."""
        return self.sample(labels, settings, noise=noise, known=KnownPixels(images=images, keep=keep))

    @abstractmethod
    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        """Draw the tokens of all steps, reporting each to the observer; return them and the last `StepOutput.state`."""

    def decode_drawn(self, state: Tensor, noise: Noise) -> Tensor:
        """Decode the state of a call as `decode_state` does; a family whose decoder draws takes its noise from here."""
        return self.decode_state(state)

    @abstractmethod
    def decode_state(self, state: Tensor) -> Tensor:
        """Decode the state after the last step into images (B, 3, H, W), in the range of `decode`."""

    def known_tokens(self, known: KnownPixels, settings: SamplingSettings, *, batch: int) -> KnownTokens:
        """Check and encode the images of an editing call; UserError for a family that cannot edit."""
        raise UserError(f"{self.spec.name} cannot edit images: it draws all tokens of an image or none")

    def _empty_cache(self, cache: Cache | None, settings: SamplingSettings, *, batch: int) -> Cache:
        if cache is None and self.graphs is None:
            return self.make_cache(None, settings, batch=batch)
        policy = self.cache_policy(cache.policy if cache else None, settings)
        needed = self.cache_shape(policy, settings, batch=batch)
        if cache is None and self.graphs:
            cache = self.graphs.cache(policy, needed)
        assert cache is not None
        if cache.shape != needed:
            raise ContractError(f"this call needs a cache of {needed}, got one of {cache.shape}")
        cache.reset()
        return cache

    def laid_out(self, maps_BChw: Tensor) -> Tensor:
        """Return equal maps in the layout in which convolutions on them take least time; they keep it to the end."""
        return maps_BChw.contiguous(memory_format=torch.channels_last) if self._channels_last else maps_BChw

    @torch.no_grad()
    def encode(self, images: Tensor, *, settings: SamplingSettings | None = None) -> tuple[Tensor, ...]:
        """Encode images (B, 3, H, W) float in [-1, 1] into tokens; `settings` None means the official ones."""
        return self.tokens_of(self.laid_out(images.to(self.device)), settings or self.spec.settings)

    @abstractmethod
    def tokens_of(self, images: Tensor, settings: SamplingSettings) -> tuple[Tensor, ...]:
        """Encode images, already on the device, into tokens."""

    @torch.no_grad()
    def decode(
        self, tokens: Sequence[Tensor], *, settings: SamplingSettings | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Decode tokens into images (B, 3, H, W) float: (x + 1) / 2 for the tokenizer's output x.

        A decoder that draws takes its numbers from `noise`, or from the tokens where it is None.
        The multi-scale VQ-VAE clamps them to [0, 1], as its official decoder does; VQ decoders do not clamp.
        """
        state = self.state_of(tokens, settings or self.spec.settings)
        return (self.decode_state(state) if noise is None else self.decode_drawn(state, noise)).contiguous()

    @abstractmethod
    def state_of(self, tokens: Sequence[Tensor], settings: SamplingSettings) -> Tensor:
        """State after all `tokens` are drawn; UserError for tokens of the wrong shape."""

    @torch.no_grad()
    def teacher_forced(
        self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor, *, settings: SamplingSettings | None = None
    ) -> Tensor:
        """Teacher-forced logits (B, L, V) of all tokens, in one pass and without label drop."""
        return self.forced_logits(tokens, self.check_labels(labels), settings or self.spec.settings, self._kernels)

    @abstractmethod
    def forced_logits(
        self, tokens: Sequence[Tensor], labels_B: Tensor, settings: SamplingSettings, kernels: KernelSet
    ) -> Tensor:
        """Logits (B, L, V) as in `teacher_forced`, for checked labels and with gradients for the transformer."""

    def loss(
        self,
        tokens: Sequence[Tensor],
        labels: Tensor,
        *,
        settings: SamplingSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean cross-entropy of all tokens (natural log); in training mode `generator` draws the label drop."""
        labels_B = self.training_labels(labels, generator)
        kernels = self._kernels.trainable()
        logits_BLV = self.forced_logits(tokens, labels_B, settings or self.spec.settings, kernels)
        return F.cross_entropy(logits_BLV.flatten(0, 1), torch.cat(tuple(tokens), dim=1).flatten())

    def forced_latents(
        self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor, settings: SamplingSettings, noise: Noise
    ) -> tuple[Tensor, ...]:
        """Latents (B, l, K) that every step yields after the steps before it yielded `tokens`, without a cache.

        Only for a model with `latent_dim`; the judge of its caches, as `teacher_forced` is of the others.
        """
        raise UserError(f"{self.spec.name} draws ids: its steps yield no latents")

    @property
    def label_drop(self) -> float:
        """Probability that training replaces a label by the null class."""
        return 0.0

    def training_labels(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Check labels; in training mode, replace each by the null class with probability `label_drop`."""
        labels_B = self.check_labels(labels)
        if not self._modules["transformer"].training or self.label_drop == 0:
            return labels_B
        u_B = torch.rand(len(labels_B), generator=generator).to(self.device)
        return labels_B.masked_fill(u_B < self.label_drop, self.spec.num_classes)

    def check_labels(self, labels: Sequence[int] | Tensor) -> Tensor:
        """Return labels (B,) int64 on the device, with the null class for NULL_LABEL; UserError for other values."""
        return checked_labels(labels, self.spec.name, self.spec.num_classes).to(self.device)
