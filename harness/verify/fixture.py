"""Fixtures of the official code, read and checked, and the comparison of their outputs with ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from arvbench.errors import UserError


class FixtureError(UserError):
    """A missing or damaged fixture, or one that needs an unimplemented feature."""


FAULTS = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, StopIteration, MemoryError)
"""Errors that names, sizes and types of a fixture cause when they are missing or wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Comparison of one recorded output with ours."""

    fixture: str
    check: str
    """Name of the output."""
    max_abs_diff: float | None
    """None without a comparison, and for values that are not finite."""
    tolerance: float
    passed: bool | None
    """None when the output cannot be compared here; `note` gives the reason."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One recorded output: every `stride`-th element of a tensor of `shape`."""

    name: str
    values: Tensor
    shape: tuple[int, ...]
    stride: int = 1
    tolerance: float = 0.0
    """Largest absolute difference allowed; 0 for integers."""
    ignore: Tensor | None = None
    """Rows to leave out (bool, leading dimensions of `shape`): the recorded value is implementation-defined there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """One fixture of any format (`formats.read_fixture`)."""

    name: str
    kind: str
    """Key of the table of replays: a family, or "sampler_unit"."""
    description: Mapping[str, Any]
    """The JSON part."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_args: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Run name -> sampling arguments under their official names."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Full names ("model.", "vae.") -> tensors; in recipe fixtures the parameters only."""
    constructed: frozenset[str] = frozenset()
    """Full names of buffers made by the constructor; empty when `weights` holds them."""
    expectations: tuple[Expectation, ...] = ()
    remark: str = ""
    """Note on every check: what a pass does not prove."""
    rng_probe: Mapping[str, tuple[int, Tensor]] = field(default_factory=dict)
    """Run name -> (seed, first Exp(1) variates of torch's CPU generator with that seed where it was recorded)."""
    normal_probe: Mapping[str, tuple[int, tuple[int, ...], Tensor]] = field(default_factory=dict)
    """Run name -> (seed, shape, first values of torch's normal draw of that shape where it was recorded)."""

    def skip_reason(self, name: str) -> str:
        """Return the reason why the output `name` cannot be compared on this platform, or an empty string."""
        probe = self.rng_probe.get(name.split(".")[0])
        if probe is not None and not _same_stream(*probe):
            return "this build of torch draws another exponential stream than the recorded one"
        normal = self.normal_probe.get(name.split(".")[0])
        if normal is not None and not _same_normals(*normal):
            return "this build of torch draws another normal stream than the recorded one"
        return ""


def padded(values: Tensor, length: int) -> Tensor:
    """Fill the last dimension up to `length` with -1: positions of rows that keep different numbers of tokens."""
    return torch.nn.functional.pad(values, (0, length - values.shape[-1]), value=-1)


def compare(fixture: Fixture, produced: Mapping[str, Tensor]) -> list[Check]:
    """Return one check per recorded output. Outputs that were not produced fail."""
    return [_check(fixture, expected, produced.get(expected.name)) for expected in fixture.expectations]


def _check(fixture: Fixture, expected: Expectation, ours: Tensor | None) -> Check:
    def result(passed: bool | None, diff: float | None = None, note: str = "") -> Check:
        return Check(
            fixture=fixture.name,
            check=expected.name,
            max_abs_diff=diff,
            tolerance=expected.tolerance,
            passed=passed,
            note="; ".join(filter(None, (note, fixture.remark))),
        )

    if reason := fixture.skip_reason(expected.name):
        return result(None, note=reason)
    if ours is None:
        return result(False, note="not produced")
    if tuple(ours.shape) != expected.shape:
        return result(False, note=f"shape {tuple(ours.shape)} instead of {expected.shape}")
    ours_sampled = ours.detach().cpu().double().reshape(-1)[:: expected.stride]
    difference = (ours_sampled - expected.values.double().reshape(-1)).abs()
    if expected.ignore is not None:
        difference = difference.view(expected.shape)[~expected.ignore]
    worst = float(difference.max())
    if not math.isfinite(worst):
        return result(False, note="not finite")
    return result(worst <= expected.tolerance, worst)


def _same_stream(seed: int, recorded: Tensor) -> bool:
    ours = torch.empty(len(recorded)).exponential_(1, generator=torch.Generator().manual_seed(seed))
    return torch.equal(ours, recorded.float())


def _same_normals(seed: int, shape: tuple[int, ...], recorded: Tensor) -> bool:
    ours = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).flatten()[: len(recorded)]
    return torch.equal(ours, recorded.float())
