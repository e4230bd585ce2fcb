"""Identity of a row: its name, its marks, and the conditions under which its speed may be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from arvbench.reports.numbers import GIB, plain, significant
from arvbench.reports.remembered import remembered
from arvbench.reports.table import Cell
from arvbench.results.launches import launches_of
from arvbench.results.moments import in_utc
from arvbench.results.schema import Finding, Incorrect, Measured, Record, Setup

RANDOM_WEIGHTS = "random weights"

Key = TypeVar("Key")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Conditions:
    """Conditions of a speed; plots and words compare speeds only under equal conditions."""

    hardware: str
    arithmetic: str
    batch: int

    def __str__(self) -> str:
        return f"{self.hardware} · {self.arithmetic} · batch {self.batch}"


def conditions(record: Record) -> Conditions:
    """Return the conditions of a case; CPU threads are part of the hardware, TF32 of the arithmetic."""
    return Conditions(hardware=hardware(record), arithmetic=arithmetic(record), batch=record.case.batch)


def processor(record: Record) -> str:
    """Return the processor's name."""
    gpu = record.environment.gpu
    return plain(gpu.name if gpu is not None else record.environment.cpu)


def hardware(record: Record) -> str:
    """Return the processor's name, for a CPU with the number of threads if known."""
    setup = setup_of(record)
    threads = setup.threads if setup is not None else record.case.threads
    if record.environment.gpu is not None or threads is None:
        return processor(record)
    return f"{processor(record)}, {threads} thread{'s' if threads != 1 else ''}"


def cores_text(cores: int) -> str:
    """Return "1 core", "2 cores"."""
    return f"{cores} core{'s' if cores != 1 else ''}"


def arithmetic(record: Record) -> str:
    """Data type of the model, marked TF32 when fp32 matrix products may run in it."""
    tf32 = record.environment.tf32 and record.environment.gpu is not None and record.case.dtype == "float32"
    return f"{record.case.dtype} (TF32)" if tf32 else record.case.dtype


def setup_of(record: Record) -> Setup | None:
    """Return the setup that ran; None for a case that failed."""
    match record.outcome:
        case Measured(setup=setup) | Incorrect(setup=setup):
            return setup
        case _:
            return None


def model_of(record: Record) -> str:
    setup = setup_of(record)
    return plain(setup.model if setup is not None else record.case.model)


def cache_policy_of(record: Record) -> str | None:
    """Return the policy that ran, else the requested one; None for a failed case that left it to the backend."""
    setup = setup_of(record)
    policy = setup.cache_policy if setup is not None else record.case.cache
    return None if policy is None else plain(policy)


def has_random_weights(record: Record) -> bool:
    setup = setup_of(record)
    return setup.weights_random if setup is not None else record.case.weights.startswith("random:")


class MeasuredCase(NamedTuple):
    """A record that has numbers."""

    record: Record
    outcome: Measured


class PreparedCase(NamedTuple):
    """A record whose model was loaded: measured, or found incorrect."""

    record: Record
    setup: Setup


@remembered
def measured(records: Sequence[Record]) -> list[MeasuredCase]:
    """Select the records that have numbers."""
    return [MeasuredCase(record, record.outcome) for record in records if isinstance(record.outcome, Measured)]


def prepared(records: Iterable[Record]) -> list[PreparedCase]:
    """Select the records whose model was loaded."""
    return [PreparedCase(record, setup) for record in records if (setup := setup_of(record)) is not None]


def warnings_of(records: Sequence[Record]) -> list[tuple[Record, Finding]]:
    """Return the warnings about the samples of records, with their records."""
    return [
        (record, finding)
        for record, outcome in measured(records)
        for finding in outcome.findings
        if finding.severity == "warning"
    ]


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group items by key; keys and items keep their order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def launch_mark(record: Record) -> str:
    """Name the launches behind a row: "8 launches", or "launch 3" for a single one."""
    launches = launches_of(record)
    return f"{len(launches)} launches" if len(launches) > 1 else f"launch {record.launch}"


_MARKS: tuple[Callable[[Record], str], ...] = (
    lambda record: plain(record.suite),
    launch_mark,
    hardware,
    lambda record: cores_text(record.environment.cores),
    lambda record: plain(record.case.weights),
    lambda record: plain(record.environment.git_commit or "no commit")[:9],
    lambda record: f"{in_utc(record.started):%Y-%m-%d %H:%M:%S}",
    lambda record: plain(record.record_id)[:8],
)
"""Marks that distinguish records of one case, the most telling first."""


@remembered
def case_names(records: Sequence[Record]) -> dict[str, str]:
    """Map record ids to unique row names: the case, with the marks needed to distinguish its rows."""
    names: dict[str, str] = {}
    for namesakes in group_by(records, lambda record: record.case_id).values():
        own = [plain(record.case_id) for record in namesakes]
        for mark in _MARKS:
            marked = [f"{name} · {mark(record)}" for name, record in zip(own, namesakes, strict=True)]
            if len(set(marked)) > len(set(own)):
                own = marked
        names |= {record.record_id: name for record, name in zip(namesakes, own, strict=True)}
    return names


def case_cell(record: Record, name: str) -> Cell:
    """Name of a row's case, marked when its weights are random."""
    return Cell(text=name, sort=name, flags=(RANDOM_WEIGHTS,) if has_random_weights(record) else ())


def memory_text(size_bytes: int) -> str:
    """Memory of a machine in GiB."""
    return f"{significant(size_bytes / GIB)} GiB"
