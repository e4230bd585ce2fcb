"""Findings of a report in words, each with the records that it rests on.

A difference is stated where intervals are apart (`measures.Reading.apart`); otherwise the words say that none is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from arvbench.reports.answer.fields import Field, Place, compared_places, lead_field, place_words
from arvbench.reports.answer.measures import CACHE, SPEED, Measure, Reading, front, quality_measures
from arvbench.reports.cases import measured
from arvbench.reports.numbers import significant
from arvbench.results.schema import Record, Status

_SHARES = ("", "", "half", "a third", "a quarter", "a fifth", "a sixth", "a seventh", "an eighth", "a ninth", "a tenth")
_NEAR = 0.05
"""Relative distance within which a share has a word."""
_NAMES = 4
"""Names in one list of a sentence."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Words that lead to the row of a record, or to a section."""

    text: str
    record_id: str = ""
    section: str = ""
    """Heading of a section, where `record_id` is ""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One finding."""

    kind: str
    """Subject: "speed", "quality", "cache", "front", "backend", "failures"."""
    parts: tuple[str | Evidence, ...]
    record_ids: tuple[str, ...]
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers in the words, by name."""

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def statements_of(places: Mapping[Place, Sequence[Field]], records: Sequence[Record]) -> list[Statement]:
    """State what the records show: by place, the one with most to compare first; then failures."""
    compared = compared_places(places)
    found: list[Statement] = []
    for place, fields in compared.items():
        found += [_placed(statement, place_words(place, compared)) for statement in _of_place(fields)]
    return [*found, *_backends(places), *_failures(records)]


def _placed(statement: Statement, where: str) -> Statement:
    if not where:
        return statement
    return Statement(
        kind=statement.kind,
        parts=(f"{where}: ", *statement.parts),
        record_ids=statement.record_ids,
        values=statement.values,
    )


def _of_place(fields: Sequence[Field]) -> list[Statement]:
    lead = lead_field(fields)
    quality = next(
        (m for m in quality_measures(list(lead.models.values())) if len(m.readings(lead.models)) > 1),
        None,
    )
    others = [each for each in fields if each is not lead and len(each.models) > 1]
    found = [_speed(lead, quality)]
    if quality is not None:
        found += [_quality(lead, quality), _front(lead, quality)]
    found += [_cache(lead), *(_speed(each, None) for each in _ends(others))]
    return [statement for statement in found if statement is not None]


def _ends(fields: Sequence[Field]) -> Sequence[Field]:
    """Return the fields with the smallest and the largest batch."""
    return fields if len(fields) < 3 else (fields[0], fields[-1])


def _speed(among: Field, quality: Measure | None) -> Statement | None:
    """Compare the fastest model with the first, or with the slowest that is shown to be slower."""
    readings = SPEED.readings(among.models)
    if len(readings) < 2:
        return None
    best, *tied = SPEED.leaders(readings)
    slower = [name for name in readings if name != best and name not in tied]
    if not slower:
        return _undecided("speed", "images/s", among, [best, *tied], readings)
    against = slower[0] if next(iter(readings)) in slower else min(slower, key=lambda name: readings[name].value)
    ratio = readings[best].value / readings[against].value
    parts: list[str | Evidence] = [
        _model(best, among),
        f" draws {significant(ratio, 2)}x the images/s of ",
        _model(against, among),
        f" at batch {among.batch} ({significant(readings[best].value)} against {significant(readings[against].value)})",
    ]
    if quality is not None:
        parts += _beside(quality, best, against, among)
    parts += _ties(tied, among, "images/s")
    unsteady = [name for name in (best, against) if _unsteady(among.models[name])]
    parts += [f" (unsteady: {', '.join(unsteady)})"] if unsteady else []
    return _statement("speed", parts, among, [best, against, *tied], {"ratio": ratio, "batch": among.batch})


def _beside(quality: Measure, one: str, other: str, among: Field) -> list[str | Evidence]:
    """Say how the quality of two models compares; nothing where one has none."""
    readings = quality.readings(among.models)
    if one not in readings or other not in readings:
        return []
    if not readings[one].apart(readings[other]):
        return [f"; no difference in {quality.label} is shown"]
    word = "higher" if readings[one].value > readings[other].value else "lower"
    joint = "and has" if quality.ahead(readings[one], readings[other]) else "but has"
    numbers = f"{significant(readings[one].value)} against {significant(readings[other].value)}"
    return [f" {joint} the {word} {quality.label} ({numbers})"]


def _quality(among: Field, quality: Measure) -> Statement | None:
    readings = quality.readings(among.models)
    best, *tied = quality.leaders(readings)
    if len(tied) == len(readings) - 1:
        return _undecided("quality", quality.label, among, [best, *tied], readings)
    word = "highest" if quality.better == "higher" else "lowest"
    parts: list[str | Evidence] = [
        _model(best, among),
        f" has the {word} {quality.label}, {significant(readings[best].value)}",
    ]
    own = readings[best]
    if own.low is not None and own.high is not None:
        parts.append(f" [{significant(own.low)}, {significant(own.high)}]")
    parts += _ties(tied, among, quality.label)
    return _statement("quality", parts, among, [best, *tied], {"value": own.value})


def _front(among: Field, quality: Measure) -> Statement | None:
    names = front((quality, SPEED), among.models)
    if not names or len(names) == len(among.models):
        return None
    parts: list[str | Evidence] = [Evidence("Pareto front", section="Figure quality throughput")]
    parts += [f" of {quality.label} and images/s at batch {among.batch}, where no model is beaten in both: "]
    parts += _listed(names, among)
    return _statement("front", parts, among, names, {})


def _cache(among: Field) -> Statement | None:
    """Compare the smallest cache with that of the first model, or with the largest."""
    readings = CACHE.readings(among.models)
    some = {name: reading for name, reading in readings.items() if reading.value > 0}
    none = [name for name in readings if name not in some]
    if len(readings) < 2 or len({reading.value for reading in readings.values()}) == 1 or not some:
        return None
    least = min(some, key=lambda name: some[name].value)
    first = next(iter(some))
    against = first if some[first].value > some[least].value else max(some, key=lambda name: some[name].value)
    parts: list[str | Evidence] = []
    names = [*none]
    values: dict[str, float] = {}
    if some[against].value > some[least].value:
        share = some[least].value / some[against].value
        values, names = {"ratio": share}, [least, against, *none]
        sizes = f"{significant(some[least].value)} against {significant(some[against].value)} MiB"
        parts += [_model(least, among), f" keeps {share_words(share)} the cache of ", _model(against, among)]
        parts.append(f" at batch {among.batch} ({sizes})")
    if none:
        parts += ["; " if parts else "", *_listed(none, among), " keep none" if len(none) > 1 else " keeps none"]
    return _statement("cache", parts, among, names, values)


def share_words(share: float) -> str:
    """Say a share below one: "a ninth", or "0.23x" where no simple share is near. Shares read as "a ninth of"."""
    whole = round(1 / share) if share > 0 else 0
    if 2 <= whole < len(_SHARES) and abs(1 / share - whole) / whole <= _NEAR:
        return f"{_SHARES[whole]} of" if whole > 2 else "half"
    return f"{significant(share, 2)}x"


def _backends(places: Mapping[Place, Sequence[Field]]) -> list[Statement]:
    """Compare the backends of one model under equal conditions."""
    found: list[Statement] = []
    listed = list(places.items())
    for place, fields in listed:
        for other, others in listed:
            if place.backend != "optimized" or other.backend == place.backend or not place.alike(other):
                continue
            batches = {each.batch: each for each in others}
            pairs = [(each, batches[each.batch]) for each in fields if each.batch in batches]
            found += [made for own, theirs in pairs if (made := _backend(own, theirs)) is not None]
    return found


def _backend(own: Field, theirs: Field) -> Statement | None:
    """State the ratios of two backends for the models that both have."""
    mine, others = SPEED.readings(own.models), SPEED.readings(theirs.models)
    shared = [name for name in mine if name in others]
    if not shared:
        return None
    backends = f"{own.place.backend} over {theirs.place.backend}"
    parts: list[str | Evidence] = [f"Backend {backends}, images/s at batch {own.batch}: "]
    ids: list[str] = []
    values: dict[str, float] = {}
    for place, name in enumerate(shared):
        ratio = mine[name].value / others[name].value
        shown = mine[name].apart(others[name])
        parts += [", " if place else "", Evidence(name, record_id=theirs.models[name].record_id)]
        unsteady = any(_unsteady(each.models[name]) for each in (own, theirs))
        mark = " (unsteady)" if unsteady else ""
        parts.append(f" {significant(ratio, 2)}x{mark}" if shown else " no difference is shown")
        values |= {name: ratio} if shown else {}
        ids += [own.models[name].record_id, theirs.models[name].record_id]
    return Statement(kind="backend", parts=tuple(parts), record_ids=tuple(ids), values=values)


def _failures(records: Sequence[Record]) -> list[Statement]:
    failed = [record for record in records if record.status is not Status.OK]
    if not failed:
        return []
    counts = Counter(record.status.value for record in failed)
    words = ", ".join(f"{count} {status}" for status, count in counts.items())
    parts = (
        Evidence(f"{len(failed)} of {len(records)} cases have no speed", section="Cases without a speed"),
        f": {words}",
    )
    return [Statement(kind="failures", parts=parts, record_ids=tuple(record.record_id for record in failed))]


def _undecided(kind: str, what: str, among: Field, names: Sequence[str], readings: Mapping[str, Reading]) -> Statement:
    values = ", ".join(significant(readings[name].value) for name in names[:_NAMES])
    parts = [
        f"No difference in {what} at batch {among.batch} is shown between ",
        *_listed(names, among),
        f" ({values})",
    ]
    return _statement(kind, parts, among, names, {})


def _ties(tied: Sequence[str], among: Field, what: str) -> list[str | Evidence]:
    return ["; no difference to ", *_listed(tied, among), " is shown"] if tied else []


def _listed(names: Sequence[str], among: Field) -> list[str | Evidence]:
    shown, more = names[:_NAMES], len(names) - _NAMES
    parts: list[str | Evidence] = []
    for place, name in enumerate(shown):
        last = place == len(shown) - 1 and more <= 0
        parts += ["" if not place else " and " if last else ", ", _model(name, among)]
    return [*parts, f" and {more} more"] if more > 0 else parts


def _model(name: str, among: Field) -> Evidence:
    return Evidence(name, record_id=among.models[name].record_id)


def _statement(
    kind: str, parts: Sequence[str | Evidence], among: Field, names: Sequence[str], values: Mapping[str, float]
) -> Statement:
    ids = tuple(among.models[name].record_id for name in names)
    return Statement(kind=kind, parts=tuple(part for part in parts if part), record_ids=ids, values=values)


def _unsteady(record: Record) -> bool:
    return any(not outcome.warmup.steady for _, outcome in measured([record]))
