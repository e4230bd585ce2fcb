"""Fields: which records may stand beside each other, and the one that speaks for each model.

Only like is compared with like. A place is one hardware (with its threads), one arithmetic, one backend, one size of
image and one source; a field is the records of a place at one batch, one for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from arvbench.reports.cases import arithmetic, group_by, hardware, has_random_weights, measured, model_of
from arvbench.reports.numbers import plain
from arvbench.results.moments import in_utc
from arvbench.results.schema import Measured, Record
from arvbench.results.search import MARK
from arvbench.results.statistics import find_timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Conditions, other than the batch, that two compared records share."""

    hardware: str
    arithmetic: str
    backend: str
    image_px: int
    source_sha256: str

    def alike(self, other: Place) -> bool:
        """Return whether the two differ in nothing but the backend."""
        return replace(self, backend=other.backend) == other


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Records of one place and batch."""

    place: Place
    batch: int
    models: Mapping[str, Record]
    """Name of a model, with its method and lossy parts -> the record that speaks for it."""

    def with_quality(self) -> list[Record]:
        return [record for record in self.models.values() if _has_quality(record)]


def place_of(record: Record, outcome: Measured) -> Place:
    return Place(
        hardware=hardware(record),
        arithmetic=arithmetic(record),
        backend=plain(record.case.backend),
        image_px=outcome.setup.image_px,
        source_sha256=plain(record.environment.source_sha256),
    )


def fields_of(records: Sequence[Record]) -> dict[Place, list[Field]]:
    """Group the records that have a speed by place, the place with most to compare first, batches ascending."""
    timed = [(record, outcome) for record, outcome in measured(records) if find_timing(outcome, "images")]
    places = {
        place: [
            Field(place=place, batch=batch, models=_speakers([record for record, _ in group]))
            for batch, group in sorted(group_by(members, lambda pair: pair[0].case.batch).items())
        ]
        for place, members in group_by(timed, lambda pair: place_of(*pair)).items()
    }
    return dict(sorted(places.items(), key=lambda item: _weight(lead_field(item[1])), reverse=True))


def lead_field(fields: Sequence[Field]) -> Field:
    """Return the field of a place with most to compare: models with quality, then models; of equals the largest batch.

    `fields` is not empty.
    """
    return max(fields, key=lambda field: (*_weight(field), field.batch))


def _weight(field: Field) -> tuple[int, int]:
    return len(field.with_quality()), len(field.models)


def compared_places(places: Mapping[Place, Sequence[Field]]) -> dict[Place, Sequence[Field]]:
    """Select the places with several models at one batch; what the judge of another backend ran is no place of its own.

    Without any, all places: a single model has its numbers too.
    """

    def is_judge(place: Place) -> bool:
        return place.backend == "reference" and any(place.alike(other) for other in places if other != place)

    several = {place: fields for place, fields in places.items() if any(len(field.models) > 1 for field in fields)}
    return {place: fields for place, fields in several.items() if not is_judge(place)} or several or dict(places)


def place_words(place: Place, among: Iterable[Place]) -> str:
    """Name what distinguishes a place from the others; "" for a single one."""
    others = list(among)
    kinds: tuple[tuple[str, Callable[[Place], object]], ...] = (
        ("{}", lambda each: each.hardware),
        ("{}", lambda each: each.arithmetic),
        ("{}", lambda each: each.backend),
        ("{} px", lambda each: each.image_px),
        ("source {}", lambda each: each.source_sha256[:8]),
    )
    return ", ".join(words.format(of(place)) for words, of in kinds if len({of(each) for each in others}) > 1)


def _has_quality(record: Record) -> bool:
    return isinstance(record.outcome, Measured) and bool(record.outcome.quality)


def model_name(record: Record) -> str:
    """Return the model with what makes it another one: its method, the parts that lose something, and being the best
    of a search, which looks better than it is.
    """
    parts = [model_of(record), plain(record.case.method or "")]
    outcome = record.outcome
    lossy = outcome.setup.lossy or () if isinstance(outcome, Measured) else ()
    parts += [plain(part) for part in lossy if part != record.case.dtype and plain(part) not in parts]
    mark = plain(record.case_id.partition(MARK)[2]) if record.case.search is not None else ""
    parts.append(f"({mark})" if mark.startswith("best of") else "")
    return " ".join(filter(None, parts))


_CACHES = {None: 0, "static": 1}
"""Policy that a case asks for -> rank among cases that differ in nothing else; others come after these."""


def _speakers(records: Sequence[Record]) -> dict[str, Record]:
    """Choose a record for each model: with trained weights and quality, nearest to the official settings, with the
    backend's own cache, else `static`, newest.
    """

    def rank(record: Record) -> tuple[bool, bool, int, int, float]:
        outcome = record.outcome
        changed = len(outcome.setup.settings_deviations) if isinstance(outcome, Measured) else 0
        return (
            has_random_weights(record),
            not _has_quality(record),
            changed,
            _CACHES.get(record.case.cache, len(_CACHES)),
            -in_utc(record.started).timestamp(),
        )

    return {name: min(group, key=rank) for name, group in group_by(records, model_name).items()}
