"""Names of rows cut to what differs, and the parts that a name is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from arvbench.reports.cases import arithmetic, case_cell, case_names
from arvbench.reports.numbers import plain
from arvbench.reports.remembered import remembered
from arvbench.reports.table import Cell, Column
from arvbench.results.schema import Record
from arvbench.results.search import MARK

_ALWAYS = ("Case", "Search")
"""Parts that a name keeps: the name of a case that has its own, and its place in a search."""
_NEVER = ("Case", "Weights")
"""Parts that no name repeats: a mark tells the weights of namesakes."""


@remembered
def short_names(records: Sequence[Record]) -> dict[str, str]:
    """Map record ids to unique names: the model, then each part that tells rows apart which the parts before do not."""
    names = case_names(records)
    parts, firsts = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    for record in records:
        # Records of one case have one name, and their marks tell them apart.
        case = plain(record.case_id)
        first = firsts.setdefault(record.case_id, name_parts(record, case))
        parts[record.record_id] = first | {"mark": names[record.record_id].removeprefix(case).removeprefix(" · ")}
    labels = list(dict.fromkeys(label for part in parts.values() for label in part))
    found = {record_id: [part.get("Case") or part["Model"]] for record_id, part in parts.items()}
    for label in sorted(labels, key=lambda label: label not in _ALWAYS):
        own = {record_id: _words(label, part.get(label, "")) for record_id, part in parts.items()}
        longer = {record_id: [*words, own[record_id]] for record_id, words in found.items()}
        tells = len(set(map(tuple, longer.values()))) > len(set(map(tuple, found.values())))
        if label not in _NEVER and (label in _ALWAYS or tells):
            found = longer
    short = {record_id: " ".join(filter(None, words)) for record_id, words in found.items()}
    return short if len(set(short.values())) == len(names) else names


def _words(label: str, value: str) -> str:
    if not value:
        return ""
    if label == "Batch":
        return f"b{value}"
    return f"{label}{value}" if label.endswith("=") else f"\N{MIDDLE DOT} {value}" if label == "mark" else value


def name_parts(record: Record, name: str) -> dict[str, str]:
    """Return the parts of a row's name by label; a part that is not given is "".

    `name` is unique: the case, and marks behind it where several records have one case.
    """
    case = record.case
    searched, _, mark = record.case_id.partition(MARK) if case.search is not None else (record.case_id, "", "")
    parts = {
        "Model": plain(case.model),
        "Search": plain(mark),
        "Batch": str(case.batch),
        "Backend": case.backend,
        "Cache": plain(case.cache or ""),
        "Method": plain(case.method or ""),
        "Dtype": arithmetic(record),
        "Device": plain(case.device),
        "Weights": plain(case.weights),
        "Recipe": plain(case.recipe or ""),
    }
    case_id = plain(searched)
    mark = name.removeprefix(plain(record.case_id)).removeprefix(" · ")
    first, *words = case_id.split() or [""]
    if first != parts["Model"]:  # a name that was not made of the settings
        return {"Case": case_id} | parts | {"mark": mark}
    said = {*parts.values(), f"b{case.batch}", case.dtype, "auto"} | ({"confirmation"} if case.search else set())
    others = [word for word in words if word not in said]
    quality = [word for word in others if word.startswith("quality(")]
    settings = dict(word.split("=", 1) for word in others if "=" in word and word not in quality)
    rest = [word for word in others if "=" not in word and word not in quality]
    return (
        parts
        | {f"{key}=": value for key, value in settings.items()}
        | {"quality": " ".join(quality), "rest": " ".join(rest), "mark": mark}
    )


class HasRecord(Protocol):
    """A row of a table of cases."""

    @property
    def record(self) -> Record: ...


@remembered
def case_cells(records: Sequence[Record]) -> dict[str, Cell]:
    """Map record ids to cells of their short names."""
    names = short_names(records)
    return {record.record_id: case_cell(record, names[record.record_id]) for record in records}


def case_column(records: Sequence[Record]) -> Column[HasRecord]:
    """Return the first column of a table of cases; every record has a unique, short name."""
    cells = case_cells(records)
    return Column("Case", cell=lambda row: cells[row.record.record_id])
