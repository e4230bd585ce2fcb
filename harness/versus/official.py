"""The official code of a model behind the calls that a measurement makes.

Scopes   tokens  from the call of the official sampler to the begin of its decoding
         decode  the official decoder
         images  labels to uint8 images; the conversion is ours, by the family's rule
Shapes   B images, l tokens of one group, H W image sides
Range    decoded images float, nominally in [0, 1]
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from arvbench.adapters.call import Observer, Samples, SilentObserver, StepOutput
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import HostError, UserError
from arvbench.registry import Registry


class Official(ABC):
    """The official model with the weights of one of our samplers, on its device."""

    family: ClassVar[str]
    autocast: ClassVar[bool]
    """True when half precision is autocast around fp32 weights, False when the transformer is cast."""

    def __init__(self, sampler: Sampler, root: Path, dtype: torch.dtype) -> None:
        """Import the official code below `root`, build its modules, and give them the weights of `sampler`.

        Raises HostError for a package that is missing here, UserError for weights that do not fit.
        """
        self.sampler, self.root, self.dtype, self.device = sampler, root, dtype, sampler.device
        self.shims: list[str] = []
        """Changes to the official code without which it does not run here, one sentence each."""
        self.cache_bytes = 0
        """Most live bytes of the cache in the last recorded call."""
        self._observer: Observer = SilentObserver()
        self._step: Step | None = None
        self._recording = False
        with torch.device(self.device):
            self.transformer, self.tokenizer = self.build()
        for part, module in (("transformer", self.transformer), ("tokenizer", self.tokenizer)):
            _load(module, self.state(part), part)
            module.eval().requires_grad_(False).to(self.device)
        if not self.autocast:
            self.transformer.to(dtype)
        self.shims += stand_ins()

    @abstractmethod
    def build(self) -> tuple[nn.Module, nn.Module]:
        """Build transformer and tokenizer by the official constructors; weights come later."""

    @abstractmethod
    def generate(self, labels_B: Tensor, settings: Any, seed: int) -> Tensor:
        """Call the official sampler and return its images, mapped to [0, 1]; `decoding` surrounds the decoder."""

    @abstractmethod
    def tokens(self) -> tuple[Tensor, ...]:
        """Ids of the last recorded call, in the groups of our sampler."""

    def check(self, settings: SamplingSettings) -> None:  # noqa: B027 most families have all settings
        """Raise UserError for settings that the official sampler does not have."""

    def state(self, part: str) -> Mapping[str, Tensor]:
        """Return the weights of a part under their official names."""
        state: Mapping[str, Tensor] = self.sampler.modules()[part].state_dict()
        return state

    def sample(self, labels_B: Sequence[int], settings: SamplingSettings, *, seed: int, observer: Observer) -> Samples:
        """Draw images; the observer hears of one step, the whole token loop, and of the decoding."""
        self._observer = observer
        self._step = next(iter(self.sampler.schedule(settings, batch=len(labels_B))))
        labels = torch.tensor(labels_B, device=self.device)
        with torch.inference_mode(), self._precision():
            observer.step_begin(self._step)
            decoded = self.generate(labels, settings, seed)
            images = to_uint8(decoded, settings.uint8_rule)
        tokens = self.tokens() if self._recording else ()
        return Samples(images=images, decoded=decoded, tokens=tokens, labels=labels)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note ids and cache bytes of the calls in the block, which costs time."""
        self._recording, self.cache_bytes = True, 0
        try:
            with self.hooks():
                yield
        finally:
            self._recording = False

    def hooks(self) -> AbstractContextManager[None]:
        """Return the hooks by which `tokens` learns what was drawn."""
        return nullcontext()

    def note_cache(self, live_bytes: int) -> None:
        """Keep the largest count of live bytes."""
        self.cache_bytes = max(self.cache_bytes, live_bytes)

    def observed(self, decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a decoder that tells the observer of its begin, which ends the token loop, and of its end."""

        def decoding(*args: Any, **kwargs: Any) -> Tensor:
            assert self._step is not None
            nothing = torch.empty(0)
            output = StepOutput(logits_pre_cfg=nothing, logits=nothing, tokens=nothing, state=nothing)
            self._observer.step_end(self._step, output)
            self._observer.decode_begin()
            decoded = decode(*args, **kwargs)
            self._observer.decode_end(decoded)
            return decoded

        return decoding

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.autocast or self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


OFFICIALS: Registry[type[Official]] = Registry(
    "family with official code",
    {
        "var": "arvbench.harness.versus.next_scale:OfficialVar",
        "mvar": "arvbench.harness.versus.next_scale:OfficialMVar",
        "hmar": "arvbench.harness.versus.next_scale:OfficialHmar",
        "flexvar": "arvbench.harness.versus.next_scale:OfficialFlexVar",
        "llamagen": "arvbench.harness.versus.token_grid:OfficialLlamaGen",
        "nar": "arvbench.harness.versus.token_grid:OfficialNar",
    },
)


_UNUSED_IN_SAMPLING = ("pytz", "tap", "tqdm", "wandb", "tensorboard", "iopath", "termcolor")
"""Packages that official code imports for its logs and command lines."""


def import_from(root: Path, module: str) -> Any:
    """Import a module of the checkout.

    A package for logs and command lines that is not installed gets an empty stand-in (`stand_ins`). Raises HostError
    that names any other missing package.
    """
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = str(error.name)
        if name.partition(".")[0] not in _UNUSED_IN_SAMPLING or name in sys.modules:
            raise HostError(f"the official code needs the package {name}, which is not installed") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise HostError(f"the official code cannot be imported here ({reason})") from error
    sys.modules[name] = _StandIn(name)
    return import_from(root, module)


def stand_ins() -> list[str]:
    """Return a sentence for every package that has a stand-in."""
    return [
        f"{name} is not installed and has an empty stand-in"
        for name, module in sys.modules.items()
        if type(module) is _StandIn
    ]


class _StandIn(ModuleType):
    """An empty module in place of one that is not installed; its names are classes that nothing should call."""

    __path__: list[str] = []  # noqa: RUF012 a package, as importlib sees it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _load(module: nn.Module, state: Mapping[str, Tensor], part: str) -> None:
    """Load weights strictly, but for buffers that a constructor makes itself."""
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the official {part} has other shapes than ours: {reason}") from error
    parameters = {name for name, _ in module.named_parameters()}
    if names := [*(name for name in missing if name in parameters), *unexpected]:
        raise UserError(f"the official {part} has other weights than ours: {', '.join(names[:5])}")
