"""Comparison of a sampler with the official code: parity first, then launches of both sides in turns.

Order    official ours, ours official, official ours, ...: a machine that drifts slows both sides alike
Ratio    official over ours, of the medians of launches: 2 means that ours takes half the time
Units    _ns nanoseconds, _bytes bytes
"""

from __future__ import annotations

import contextlib
import math
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from arvbench.files import scratch_folder, write_whole
from arvbench.harness.check.judge import detectable
from arvbench.harness.check.launch_tests import compare, ratio_interval
from arvbench.harness.check.rule import Rule
from arvbench.harness.jobs import Event, EventListener
from arvbench.harness.machine.processes import running
from arvbench.harness.versus.checkouts import Upstream, upstream_of
from arvbench.harness.versus.launch import LaunchResult, Parity, SideName, Times, Variant, VersusJob
from arvbench.results.schema import CaseConfig, Environment

SCOPES = ("tokens", "decode", "images")
_KEPT_OUTPUT = 2000
"""Characters of a process's output to keep when it dies."""
Status = Literal["ok", "incorrect", "unsupported", "error"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ratio(_Part):
    """One scope of both sides. Times are medians over launches of the medians of their calls."""

    scope: str
    official_ns: float
    ours_ns: float
    ratio: float
    interval: tuple[float, float] | None
    """95 % (Hodges-Lehmann, exact); None for too few launches."""
    detectable: float | None
    """Smallest relative change that this many launches find; None when they cannot find any."""


class Versus(_Part):
    """A whole comparison, as versus.json has it."""

    schema_version: Literal[1] = 1
    status: Status
    reason: str = ""
    """Why there are no ratios; "" for status ok."""
    repository: str
    commit: str
    dirty: bool
    notices: tuple[str, ...] = ()
    variant: Variant
    case: CaseConfig
    started: datetime
    environment: Environment
    parity: Parity | None = None
    shims: tuple[str, ...] = ()
    official: tuple[Times, ...] = ()
    ours: tuple[Times, ...] = ()
    ratios: tuple[Ratio, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VersusRequest:
    """One comparison to make."""

    case: CaseConfig
    """The case of `arvbench run` that our side is; `launches` counts per side."""
    root: Path
    variant: Variant = "as-is"
    seed: int = 0


def compare_with_official(request: VersusRequest, folder: Path, listener: EventListener) -> Versus:
    """Compare, and write versus.json after every pair of launches.

    A failure is a status. Raises UserError for a model without official code and for the checkout of another
    repository, UnknownName for an unknown model.
    """
    from arvbench.adapters.loading import usable_device
    from arvbench.adapters.registry import MODELS
    from arvbench.harness.machine.environment import read_environment

    upstream = upstream_of(MODELS[request.case.model].sampler.family, request.root)
    trial = Versus(
        status="error",
        reason="interrupted",
        repository=upstream.repository,
        commit=upstream.commit,
        dirty=upstream.dirty,
        notices=tuple(notice for notice in (upstream.notice,) if notice),
        variant=request.variant,
        case=request.case,
        started=datetime.now(UTC),
        environment=read_environment(usable_device(request.case.device)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    begun = trial
    for grown in _stages(begun, request, upstream, listener):
        trial = grown
        write_whole(folder / "versus.json", trial.model_dump_json(indent=2))
    return trial


def _stages(trial: Versus, request: VersusRequest, upstream: Upstream, listener: EventListener) -> Iterator[Versus]:
    """Yield the comparison as it grows; the last one is whole, or has the status of what failed."""
    launches = request.case.launches
    total = 1 + 2 * launches

    def tell(done: int, side: str) -> None:
        listener(Event(phase="versus", done=done, total=total, note=side))

    yield trial
    tell(0, "parity")
    first = _launch("parity", request, upstream)
    trial = trial.model_copy(update={"shims": first.shims, "parity": first.parity})
    if (end := _parity_failure(first)) is not None:
        yield trial.model_copy(update=end)
        return
    sides: dict[SideName, list[Times]] = {"official": [], "ours": []}
    order: Sequence[SideName] = ("official", "ours")
    for number in range(launches):
        for side in order if number % 2 == 0 else reversed(order):
            tell(1 + sum(map(len, sides.values())), f"{side}, launch {number + 1} of {launches}")
            result = _launch(side, request, upstream)
            if result.times is None:
                yield trial.model_copy(update={"status": result.status, "reason": f"{side}: {result.failure}"})
                return
            sides[side].append(result.times)
        official, ours = tuple(sides["official"]), tuple(sides["ours"])
        trial = trial.model_copy(update={"official": official, "ours": ours, "ratios": ratios(official, ours)})
        whole = number + 1 == launches
        yield trial.model_copy(update={"status": "ok", "reason": ""} if whole else {})
    tell(total, "done")


def _parity_failure(first: LaunchResult) -> dict[str, str] | None:
    """Return status and reason of a parity launch that forbids times; None when both sides drew the same ids."""
    if first.parity is None:
        return {"status": first.status, "reason": first.failure}
    parity = first.parity
    if parity.equal_reference == parity.equal_backend == parity.tokens:
        return None
    reason = (
        f"of {parity.tokens} tokens, {parity.equal_reference} of our reference and {parity.equal_backend} of the timed "
        "backend equal the official ones in float32: no time is taken"
    )
    return {"status": "incorrect", "reason": reason}


def ratios(official: Sequence[Times], ours: Sequence[Times]) -> tuple[Ratio, ...]:
    """Return a ratio per scope, of as many launches of each side."""
    rule = Rule()
    found = []
    for scope in SCOPES:
        theirs, mine = (np.array([median(t.scopes_ns[scope]) for t in side]) for side in (official, ours))
        seen = None
        if len(mine) >= 2:
            scatter = compare(mine, theirs, rule).scatter
            change = float(detectable(scatter, (len(mine), len(theirs)), len(SCOPES), rule))
            seen = change if math.isfinite(change) else None
        found.append(
            Ratio(
                scope=scope,
                official_ns=float(np.median(theirs)),
                ours_ns=float(np.median(mine)),
                ratio=float(np.median(theirs) / np.median(mine)),
                interval=ratio_interval(mine, theirs),
                detectable=seen,
            )
        )
    return tuple(found)


def _launch(side: SideName, request: VersusRequest, upstream: Upstream) -> LaunchResult:
    """Run one fresh process, and return its result; a death is an error with the last lines it printed."""
    job = VersusJob(
        side=side, case=request.case, root=upstream.root.absolute(), variant=request.variant, seed=request.seed
    )
    with scratch_folder() as scratch:
        result, log = scratch / "result.json", scratch / "output.txt"
        with log.open("wb") as output:
            arguments = ["--result", str(result)]
            with running("arvbench.harness.versus.launch", job, output=output, arguments=arguments) as process:
                try:
                    process.wait(timeout=request.case.timeout_s)
                except subprocess.TimeoutExpired:
                    reason = f"not finished after timeout_s {request.case.timeout_s:g}"
                    return LaunchResult(failure=reason, status="error")
        with contextlib.suppress(OSError, ValidationError):
            return LaunchResult.model_validate_json(result.read_bytes())
        said = " ".join(log.read_text(errors="replace")[-_KEPT_OUTPUT:].split())[-300:]
    return LaunchResult(failure=f"the process died with exit code {process.returncode}: {said}", status="error")
