"""Cases of two runs, paired by what they measured.

The same machine comes before another one: each machine's launches of a case are paired with its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from arvbench.errors import UserError
from arvbench.paths import printable
from arvbench.results.comparison import comparison_key, hardware_class
from arvbench.results.launches import case_key
from arvbench.results.records import newest_of_each_case, read_records
from arvbench.results.schema import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCase:
    """Launches of one case of one run."""

    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        return self.records[0].case_id

    @property
    def key(self) -> str:
        """Comparison key; "" when every launch failed."""
        return next((key for record in self.records if (key := comparison_key(record))), "")

    @property
    def hardware(self) -> str:
        return hardware_class(self.records[0].environment)

    def __str__(self) -> str:
        return f"{self.name} on {self.hardware}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePair:
    """A case that both runs have, under one name that no other pair has."""

    name: str
    base: RunCase
    head: RunCase

    @property
    def one_machine(self) -> bool:
        return self.base.hardware == self.head.hardware

    def sides(self) -> tuple[list[Record], list[Record]]:
        """Return the records of base and of head under the name of the pair."""
        base, head = (
            [record.model_copy(update={"case_id": self.name}) for record in case.records]
            for case in (self.base, self.head)
        )
        return base, head


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Cases of two runs."""

    pairs: tuple[CasePair, ...]
    only_base: tuple[RunCase, ...]
    only_head: tuple[RunCase, ...]


def read_run(path: Path) -> tuple[Record, ...]:
    """Return the newest launches of every case of a run folder or a records file.

    Raises UserError for one that cannot be read or has no records.
    """
    file = read_records(path)
    records = newest_of_each_case(file.records)
    if not records:
        damaged = f"; {len(file.damaged_lines)} damaged lines" if file.damaged_lines else ""
        raise UserError(f"no records in {printable(file.path)}{damaged}")
    return records


def pair_cases(base: Iterable[Record], head: Iterable[Record]) -> Pairing:
    """Pair the cases of two runs, in head's order. A case without a key, which failed, is found by its name."""
    of_base, of_head = dict(enumerate(_cases(base))), dict(enumerate(_cases(head)))
    found: dict[int, RunCase] = {}
    for same_machine in (True, False):
        places = _Places(of_base, same_machine)
        for place, case in of_head.items():
            if place not in found and (match := places.take(case)) is not None:
                found[place] = of_base.pop(match)
    names = _unique([of_head[place] for place in sorted(found)])
    return Pairing(
        pairs=tuple(
            CasePair(name=name, base=found[place], head=of_head[place])
            for place, name in zip(sorted(found), names, strict=True)
        ),
        only_base=tuple(of_base.values()),
        only_head=tuple(case for place, case in of_head.items() if place not in found),
    )


def _cases(records: Iterable[Record]) -> list[RunCase]:
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(case_key(record), []).append(record)
    return [RunCase(records=tuple(launches)) for launches in groups.values()]


class _Places:
    """Places of base's cases by what they measured, and by their names."""

    def __init__(self, cases: Mapping[int, RunCase], same_machine: bool) -> None:
        self._same_machine = same_machine
        self._free = set(cases)
        self._by: dict[tuple[str, ...], list[int]] = {}
        """Places, the last first."""
        for place, case in reversed(list(cases.items())):
            machine, key = self._machine(case), case.key
            self._by.setdefault(("key", key, machine) if key else ("failed", case.name, machine), []).append(place)
            self._by.setdefault(("name", case.name, machine), []).append(place)

    def take(self, case: RunCase) -> int | None:
        """Return the first place with the key of a case, or without one and with its name; None when it is gone."""
        machine = self._machine(case)
        like = [("key", case.key), ("failed", case.name)] if case.key else [("name", case.name)]
        places = [place for kind in like for place in self._first((*kind, machine))]
        if not places:
            return None
        self._free.remove(place := min(places))
        return place

    def _first(self, wanted: tuple[str, ...]) -> list[int]:
        """Return the first place that is free, if there is one."""
        places = self._by.get(wanted, [])
        while places and places[-1] not in self._free:
            places.pop()
        return places[-1:]

    def _machine(self, case: RunCase) -> str:
        return case.hardware if self._same_machine else ""


def _unique(cases: Sequence[RunCase]) -> list[str]:
    """Name cases; namesakes get their machine or, on one machine, a number."""
    names: list[str] = []
    for case in cases:
        wanted = (case.name, f"{case.name} ({case.hardware})")
        numbered = (f"{case.name} #{number}" for number in range(2, len(cases) + 2))
        names.append(next(name for name in (*wanted, *numbered) if name not in names))
    return names
