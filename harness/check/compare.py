"""Two runs compared: every number that both have, with its verdict and the most likely cause of its change.

Machines   cases are paired on one hardware class. A case that the runs measured on different machines is shown, and
           no code is blamed for it
Launches   from as many on as the rule needs, numbers are judged as in a check. Fewer are inconclusive; one launch on
           each side has an interval within one process, and says so
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from arvbench.harness.check.cause import with_cause
from arvbench.harness.check.control import machine_moved
from arvbench.harness.check.decide import decide
from arvbench.harness.check.few_launches import few_changes, few_launches
from arvbench.harness.check.gated import keep, pairs_of
from arvbench.harness.check.numbers import gated_numbers
from arvbench.harness.check.pairing import CasePair, pair_cases, read_run
from arvbench.harness.check.rule import Rule
from arvbench.harness.check.wording import change_of
from arvbench.paths import printable
from arvbench.results.comparison import hardware_class
from arvbench.results.schema import Record
from arvbench.results.verdict import EXIT_CODES, Change, Check, Side, Verdict, worst

_RULE: Final = Rule()
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Verdict on two runs."""

    check: Check
    notices: tuple[str, ...]
    """Cases that only head has: nothing to compare them with."""


def compare_runs(base_path: Path, head_path: Path, *, command: str, rule: Rule = _RULE) -> Comparison:
    """Compare two run folders or records files.

    Raises UserError for one that cannot be read or has no records.
    """
    base, head = read_run(base_path), read_run(head_path)
    paired = pair_cases(base, head)
    changes, machine = [], []
    unusable = [f"only {printable(base_path)} has {case}" for case in paired.only_base]
    for hardware in dict.fromkeys(pair.head.hardware for pair in paired.pairs if pair.one_machine):
        here = [pair for pair in paired.pairs if pair.one_machine and pair.head.hardware == hardware]
        judged = _judge(here, rule)
        changes += judged.changes
        machine += judged.machine
        unusable += judged.faults
    changes += [change for pair in paired.pairs if not pair.one_machine for change in _on_two_machines(pair)]
    if not paired.pairs:
        unusable.append("no case is in both runs")
    verdict = worst([change.verdict for change in changes] + [Verdict.UNUSABLE] * bool(unusable))
    records = (*base, *head)
    check = Check(
        run_id=hashlib.sha256("".join(sorted(record.record_id for record in records)).encode()).hexdigest()[:16],
        suite=_joined(record.suite for record in records),
        started=min(record.started for record in records),
        finished=max(record.finished for record in records),
        hardware=_joined(hardware_class(record.environment) for record in records),
        base=_side(base_path, base),
        head=_side(head_path, head),
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        machine=tuple(machine),
        unusable=tuple(unusable),
        changes=tuple(changes),
        command=command,
    )
    return Comparison(
        check=check,
        notices=tuple(f"not compared: only {printable(head_path)} has {case}" for case in paired.only_head),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    changes: list[Change]
    machine: list[str]
    faults: list[str]


def _judge(pairs: Sequence[CasePair], rule: Rule) -> _Judged:
    """Judge the numbers of cases that one machine measured in both runs, as one family."""
    of_base, of_head = zip(*(pair.sides() for pair in pairs), strict=True)
    sides = [record for side in of_base for record in side], [record for side in of_head for record in side]
    machine = machine_moved(*sides)
    base, head = gated_numbers(sides[0], side="base"), gated_numbers(sides[1], side="head")
    few = few_launches(base.series, head.series, rule)
    enough = {one.key for one in (*base.series, *head.series)} - {pair.key for pair in few.pairs}
    changes = [
        *few_changes(few, sides, machine=machine),
        *decide(keep(base.series, enough), keep(head.series, enough), rule, machine=machine),
    ]
    by_name = {pair.name: pair for pair in pairs}
    return _Judged(
        changes=[with_cause(change, by_name[change.case]) for change in changes],
        machine=machine,
        faults=[*base.faults, *head.faults],
    )


def _on_two_machines(pair: CasePair) -> list[Change]:
    """Show the numbers of a case that the runs measured on different machines."""
    sides = [gated_numbers(records, side="run").series for records in pair.sides()]
    reason = f"Measured on different machines, {pair.base.hardware} and {pair.head.hardware}: no code is blamed."
    changes = []
    for both in pairs_of(*sides):
        if both.base is None or both.head is None:
            continue
        base, head = both.values
        ratio = None if both.fault() or not median(base) else median(head) / median(base)
        changes.append(with_cause(change_of(both, Verdict.MACHINE, reason, ratio=ratio), pair))
    return changes


def _side(path: Path, records: Sequence[Record]) -> Side:
    """Describe a run; commit and source only where all its records share one."""
    environments = [record.environment for record in records]
    return Side(
        name=printable(path),
        commit=_only(environment.git_commit for environment in environments),
        dirty=_only(environment.git_dirty for environment in environments),
        source_sha256=_only(environment.source_sha256 for environment in environments),
        record_ids=tuple(record.record_id for record in records),
    )


def _only(values: Iterable[_Value]) -> _Value | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
