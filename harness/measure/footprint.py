"""Memory of a case before it runs: its sampling call on the meta device, which has shapes and computes nothing.

Every step of the real sampler runs there, its cache included, so the prediction follows schedule, settings and cache
policy of any family. Four things differ from a real device and are put right: attention is fused, so its scores are
never held; so is a bicubic resize; a convolution on the CPU copies its output to another layout; the tokens are all
zero.

Units    _bytes bytes
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from arvbench.adapters.call import SamplingCall, SilentObserver
from arvbench.adapters.loading import meta_modules
from arvbench.adapters.methods.request import spec_of
from arvbench.adapters.model_files import WeightsInfo
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.schedule import Schedule
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError
from arvbench.harness.suites.suite import sampling_settings
from arvbench.kernels.backends import backend_named
from arvbench.results.schema import CaseConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Predicted bytes of all tensors of a case; peaks are above the weights, as in `results.memory.TensorPeaks`."""

    weights_bytes: int
    cache_bytes: int
    """Live cache at its peak, from the schedule."""
    tokens_peak_bytes: int
    decode_peak_bytes: int

    @property
    def total_bytes(self) -> int:
        """Weights and the most that a call holds beside them."""
        return self.weights_bytes + max(self.tokens_peak_bytes, self.decode_peak_bytes)


def planned_call(case: CaseConfig) -> tuple[Sampler, SamplingSettings, Schedule]:
    """Return a sampler of the case without weights, on the meta device, with its settings and the plan of a call."""
    spec = spec_of(case.model, case.method)
    settings = sampling_settings(spec, case.settings)
    dtype, meta = getattr(torch, case.dtype), torch.device("meta")
    # The reference backend needs no packed weights and no kernels of a device.
    unknown = WeightsInfo(source="meta", random=False)
    sampler = spec.sampler(spec, meta_modules(spec), weights=unknown, backend="reference", device=meta, dtype=dtype)
    sampler.official = backend_named(case.backend).official
    return sampler, settings, sampler.schedule(settings, batch=case.batch, cache=case.cache)


def predict(case: CaseConfig) -> Footprint:
    """Predict the memory of one sampling call. Raises UserError where the sampler looks at values, which meta lacks."""
    sampler, settings, schedule = planned_call(case)
    meta = sampler.device
    try:
        with torch.no_grad(), _watched(sampler, on_cpu=case.device.startswith("cpu")) as held:
            cache = sampler.make_cache(case.cache, settings, batch=case.batch)
            labels_B = torch.zeros(case.batch, dtype=torch.int64, device=meta)
            call = SamplingCall(
                labels_R=labels_B.repeat(2) if schedule.rows > case.batch else labels_B,
                settings=settings,
                noise=_Zeros(0, range(case.batch)),
                cache=cache,
                observer=SilentObserver(),
                schedule=schedule,
            )
            _, state = sampler.generate(call)
            tokens_peak = held.begin_phase()
            sampler.decode_state(state)
            decode_peak = held.begin_phase()
    except (NotImplementedError, RuntimeError) as error:
        # Reading a value fails on the meta device. Other faults raise the same types, so the message names the cause.
        cause = str(error).partition("\n")[0][:120]
        raise UserError(
            f"{case.model}: its sampler looks at values, so its memory cannot be predicted ({cause})"
        ) from error
    return Footprint(
        weights_bytes=sum(storages(sampler).values()),
        cache_bytes=schedule.peak_cache_bytes,
        tokens_peak_bytes=tokens_peak,
        decode_peak_bytes=decode_peak,
    )


def storages(sampler: Sampler) -> dict[int, int]:
    """Return the storages of the weights, each once, with their bytes."""
    tensors = [t for module in sampler.modules().values() for t in (*module.parameters(), *module.buffers())]
    return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}


class _Zeros(PerImageNoise):
    """Draws token 0: values do not exist here."""

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        return torch.zeros(logits_BlV.shape[:-1], dtype=torch.int64, device=logits_BlV.device)


@contextmanager
def _watched(sampler: Sampler, *, on_cpu: bool) -> Iterator[_Held]:
    """Count the tensors that the block makes, beside the weights."""
    sampler.sort_all = True  # the quicker filter looks at the logits
    with _Held(set(storages(sampler)), on_cpu=on_cpu) as held, _WholeOperators():
        yield held


class _Held(TorchDispatchMode):
    """Adds up the storages of all tensors that are alive."""

    def __init__(self, known: set[int], *, on_cpu: bool) -> None:
        TorchDispatchMode.__init__(self)
        self._known, self._on_cpu = known, on_cpu
        self._bytes = self._peak = 0

    def begin_phase(self) -> int:
        """Return the peak so far, and begin anew from what is held."""
        peak, self._peak = self._peak, self._bytes
        return peak

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        if self._on_cpu and func is torch.ops.aten.convolution.default:
            self._peak = max(self._peak, self._bytes + made.nbytes)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self._known:
            self._known.add(key)
            self._bytes += storage.nbytes()
            self._peak = max(self._peak, self._bytes)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size


class _WholeOperators(TorchFunctionMode):
    """Takes the place of operators that a device computes whole, and the meta device in parts that would be held."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, values = args[0], args[2] if len(args) > 2 else (kwargs or {})["value"]
            return query.new_empty((*query.shape[:-1], values.shape[-1]))
        if func is F.interpolate and kwargs and kwargs.get("mode") == "bicubic" and kwargs.get("size"):
            return args[0].new_empty((*args[0].shape[:2], *kwargs["size"]))
        return func(*args, **(kwargs or {}))
