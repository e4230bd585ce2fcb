"""Replay of fixtures: repeat the official runs with our sampler, under the names that the fixtures use.

`Replay` is the interface for one kind of fixture, `FamilyReplay` the part shared by all model families.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.call import SilentObserver, StepOutput
from arvbench.adapters.loading import assemble, meta_modules
from arvbench.adapters.sampler import ModelSpec, Sampler, WeightsInfo
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import shown
from arvbench.harness.verify.fixture import Fixture, FixtureError
from arvbench.kernels.backends import Kernels

Outputs = dict[str, Tensor]
"""Name of an output -> its values."""
Run = Mapping[str, Any]
"""Sampling arguments of one recorded run under their official names."""
Call = tuple[Tensor, Any]
"""First argument and result of one call of a module."""
Tolerances = tuple[tuple[str, float], ...]
"""(end of an output's name, largest absolute difference allowed) pairs; the first match wins."""

PREFIXES = {"transformer": "model.", "refiner": "refiner.", "tokenizer": "vae."}
"""Part of a model -> prefix of its tensors in fixtures."""
_LAYERS = frozenset({"depth", "n_layer", "n_layers_train", "num_res_blocks"})
"""Arguments that count modules."""
_MOST_LAYERS, _MOST_SIZE = 1_000, 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(ABC):
    """Entry of the table of replays."""

    tolerances: Tolerances
    """For floats, on any CPU, in fixtures that state none; integers are exact unless they are bytes ("_u8")."""

    @abstractmethod
    def outputs(self, fixture: Fixture, backend: str, device: torch.device, kernels: Kernels = "backend") -> Outputs:
        """Return every output that `fixture` may have recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyReplay(Replay):
    """Replay of a model family's fixtures: every recorded run, then the passes that draw no tokens."""

    sampler: type[Sampler]
    transformer: type[Any]
    """Configuration of the transformer, a dataclass with the official names."""
    tokenizer: type[Any]
    """Configuration of the tokenizer."""
    no_effect: frozenset[str]
    """Official arguments that change no recorded output."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Official arguments without a counterpart here, with the only value that can be replayed."""
    spec_settings: Callable[[Fixture], SamplingSettings]
    """Official settings of the recorded model; the passes without a run read their scales."""
    run_settings: Callable[[Run], SamplingSettings]
    """Our settings for a run's official arguments."""
    unnamed_run: str | None = None
    """Run whose outputs fixtures also record without the name of the run."""

    def spec(self, fixture: Fixture) -> ModelSpec:
        """Return the spec of the recorded model. Raises FixtureError for arguments that are not implemented."""
        tokenizer = self._config(self.tokenizer, fixture.tokenizer_args)
        transformer = self._config(self.transformer, {**fixture.model_args, **self.sizes(tokenizer)})
        return ModelSpec(
            name=fixture.name,
            sampler=self.sampler,
            transformer=transformer,
            tokenizer=tokenizer,
            settings=self.spec_settings(fixture),
            settings_source="fixture",
        )

    def sizes(self, tokenizer: Any) -> dict[str, int]:
        """Return arguments of the transformer that the official code reads from the tokenizer."""
        return {}

    def _config(self, kind: type[Any], args: Mapping[str, Any]) -> Any:
        for name, value in args.items():
            _check_size(name, value)
        known = {f.name for f in fields(kind)}
        others = sorted(args.keys() - known - self.no_effect)
        if unknown := [name for name in others if name not in self.fixed or args[name] != self.fixed[name]]:
            raise FixtureError(f"the fixture uses arguments that are not implemented: {', '.join(unknown)}")
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in args.items() if k in known})

    @abstractmethod
    def run_outputs(self, sampler: Any, fixture: Fixture, run: Run) -> Outputs:
        """Sample one recorded run with the official random stream."""

    @abstractmethod
    def pass_outputs(self, sampler: Any, fixture: Fixture) -> Outputs:
        """Return the outputs that belong to no run, under their full names."""

    def outputs(self, fixture: Fixture, backend: str, device: torch.device, kernels: Kernels = "backend") -> Outputs:
        sampler = load(fixture, self.spec(fixture), backend, device)
        sampler.use_kernels(kernels)
        outputs: Outputs = {}
        for name, run in fixture.runs.items():
            run_outputs = self.run_outputs(sampler, fixture, run)
            outputs |= prefixed(name, run_outputs) | (run_outputs if name == self.unnamed_run else {})
        return outputs | self.pass_outputs(sampler, fixture)


def _check_size(name: str, value: Any) -> None:
    """Raise FixtureError for a size that no fixture has: building the model would take for ever, or all memory."""
    most = _MOST_LAYERS if name in _LAYERS else _MOST_SIZE
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) > _MOST_LAYERS or any(isinstance(n, int | float) and abs(n) > most for n in numbers):
        raise FixtureError(f"the fixture's argument {name} = {shown(value)} is too large to be replayed")


def load(fixture: Fixture, spec: ModelSpec, backend: str, device: torch.device) -> Sampler:
    """Return the sampler of `spec` with the fixture's weights."""
    state: dict[str, dict[str, Tensor]] = {}
    modules = meta_modules(spec)
    for part, module in modules.items():
        prefix = PREFIXES[part]
        state[part] = {k.removeprefix(prefix): t for k, t in fixture.weights.items() if k.startswith(prefix)}
        constants: dict[str, Tensor] = cast(Any, module).constant_buffers()
        state[part] |= {k: t for k, t in constants.items() if prefix + k in fixture.constructed}
        unused = fixture.description.get("unused", {}).items()
        state[part] |= {k.removeprefix(prefix): torch.zeros(size) for k, (size, _) in unused if k.startswith(prefix)}
    info = WeightsInfo(source=f"fixture {fixture.name}", random=False)
    return assemble(spec, modules, (state, info), device=device, backend=backend)


class Recorder(SilentObserver):
    """Keep every step of a sampling call and its output."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.outputs: list[StepOutput] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(step)
        self.outputs.append(output)


@contextmanager
def recorded(root: nn.Module, names: str) -> Iterator[dict[str, list[Call]]]:
    """Record the calls of the submodules whose names match the regular expression `names`, by name.

    Results are copied: the next step may continue a state in place.
    """
    calls: dict[str, list[Call]] = {}
    with ExitStack() as stack:
        for name, module in root.named_modules():
            if name and re.fullmatch(names, name):
                own = calls[name] = []
                hook = module.register_forward_hook(
                    lambda _module, args, output, own=own: own.append((args[0], deepcopy(output)))
                )
                stack.callback(hook.remove)
        yield calls


def unit_outputs(fixture: Fixture, replay: Callable[[str, Mapping[str, Any]], Outputs]) -> Outputs:
    """Return the outputs of every case of a unit fixture under its name; `replay` gets (name, description)."""
    outputs: Outputs = {}
    for name, case in fixture.description["cases"].items():
        outputs |= prefixed(name, replay(name, case))
    return outputs


def numbered(name: str, tensors: Iterable[Tensor]) -> Outputs:
    """Return {"name.0": ..., "name.1": ...}."""
    return {f"{name}.{number}": tensor for number, tensor in enumerate(tensors)}


def prefixed(prefix: str, outputs: Mapping[str, Tensor]) -> Outputs:
    """Return `outputs` with `prefix` and a dot before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in outputs.items()}
