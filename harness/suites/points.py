"""Points of a search as cases, and what a suite may ask of a search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arvbench.errors import UserError, shown
from arvbench.results.schema import CaseConfig
from arvbench.results.search_request import FIELDS, Point, SearchRequest, later_seed, read_objective

_COUNTED = ("number", "tries", "confirmation")
"""Fields of a search that a run writes."""


def at_point(case: CaseConfig, point: Point, *, number: int, confirmation: bool = False) -> CaseConfig:
    """Return a try of a case's search, or the confirmation of its best point, which draws other images.

    Raises ValidationError for values that no case has.
    """
    request = _request(case)
    fields = case.model_dump()
    for key, value in zip(request.over, point, strict=True):
        if key in FIELDS:
            fields[key] = value
        else:
            fields["settings"] = fields["settings"] | {key.removeprefix("settings."): value}
    counted = {"number": number, "tries": request.most, "confirmation": confirmation}
    fields["search"] = request.model_copy(update=counted)
    if confirmation and case.quality is not None:
        fields["quality"] = case.quality.model_copy(update={"seed": later_seed(case.quality.seed)})
    return CaseConfig.model_validate(fields)


def points_of(case: CaseConfig) -> Iterator[CaseConfig]:
    """Yield a case with every value of every searched key, the others at their first ones; a plain case as it is."""
    if case.search is None:
        yield case
        return
    first = tuple(axis[0] for axis in case.search.axes)
    for place, axis in enumerate(case.search.axes):
        for value in axis:
            yield at_point(case, (*first[:place], value, *first[place + 1 :]), number=1)


def check_layers(merged: Mapping[str, Any], command_line: Mapping[str, Any]) -> None:
    """Raise UserError for a search over a key that is a list in the case, or set on the command line."""
    requests = merged.get("search")
    for request in requests if isinstance(requests, list) else [requests]:
        if not isinstance(request, Mapping):
            continue
        if counted := [key for key in _COUNTED if key in request]:
            raise UserError(f"search: {counted[0]} is counted by the run")
        over = request.get("over")
        for key in over if isinstance(over, Mapping) else ():
            if _lists(merged, key):
                raise UserError(f"search: {shown(key)} is searched, and a list of cases in the same case: choose one")
            if _values(command_line, key):
                raise UserError(f"search: {shown(key)} is searched, and set on the command line: choose one")


def check_rules(cases: Sequence[CaseConfig], rules: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError for a rule of `exclude` about a key that a case searches: its values are not known yet."""
    for case in cases:
        for key in case.search.over if case.search is not None else ():
            if any(_values(rule, key) for rule in rules):
                raise UserError(f"exclude: {key} is searched by a case of {case.model}: leave values out of its list")


def check_objective(case: CaseConfig) -> None:
    """Raise UserError for a search whose objective the case does not measure."""
    if case.search is None:
        return
    objective, quality = read_objective(case.search.objective), case.quality
    if objective.name == "energy" and case.energy is None:
        raise UserError("search: its objective is energy, and the case does not measure energy: add energy: {}")
    if not objective.is_metric:
        return
    if quality is None:
        raise UserError(f"search: its objective is {objective.name}, and the case does not ask for quality")
    if case.weights.startswith("random:"):
        raise UserError(f"search: its objective is {objective.name}, and random weights have no quality")
    if quality.metrics and objective.name not in quality.metrics:
        raise UserError(f"search: its objective is {objective.name}, and quality.metrics does not name it")
    if objective.protocol not in (None, *quality.protocols):
        raise UserError(f"search: quality.protocols does not name {shown(objective.protocol)}")
    if objective.protocol is None and len(quality.protocols) > 1:
        first = f"{quality.protocols[0]}:{objective.name}"
        raise UserError(f"search: of {len(quality.protocols)} protocols, say whose {objective.name}, such as {first}")


def check_metric_of_search(case: CaseConfig, measured: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError for a search whose objective is none of the metrics by protocol that the case measures."""
    if case.search is None or not (objective := read_objective(case.search.objective)).is_metric:
        return
    names = [name for protocol, names in measured.items() if objective.protocol in (None, protocol) for name in names]
    if objective.name not in names:
        raise UserError(f"search: its objective is {objective.name}; {', '.join(measured)} has: {', '.join(names)}")


def _request(case: CaseConfig) -> SearchRequest:
    assert case.search is not None
    return case.search


def _values(layer: Mapping[str, Any], key: str) -> list[Any]:
    """Return the values of a key, dotted or not, in a layer: none, one, or those of a list of mappings."""
    head, dot, tail = key.partition(".")
    if not dot:
        return [layer[key]] if key in layer else []
    settings = layer.get(head)
    within = settings if isinstance(settings, list) else [settings]
    return [one[tail] for one in within if isinstance(one, Mapping) and tail in one]


def _lists(merged: Mapping[str, Any], key: str) -> bool:
    """Return whether a key makes several cases."""
    head, dot, _ = key.partition(".")
    values = _values(merged, key)
    return isinstance(merged.get(head), list) and bool(values) if dot else any(isinstance(v, list) for v in values)
