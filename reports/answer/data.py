"""`report.json`: best, fronts and findings of a report by record id, for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from arvbench.reports.answer.answer import Answer
from arvbench.reports.answer.fields import Field
from arvbench.reports.answer.measures import CACHE, SPEED, Measure, Reading, front_of, quality_measures
from arvbench.results.history import History
from arvbench.results.schema import Record

FORMAT = 1
"""Version of the file; raised when a field changes its meaning."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Best(_Part):
    """Best of a field by one measure."""

    measure: str
    better: str
    unit: str
    protocol: str
    record_id: str
    model: str
    value: float
    interval: tuple[float, float] | None
    not_apart: tuple[str, ...]
    """Record ids from which no difference to the best is shown."""


class Front(_Part):
    """Pareto front of a field: records that no other beats in all measures."""

    measures: tuple[str, ...]
    protocol: str
    record_ids: tuple[str, ...]


class FieldData(_Part):
    """Records that may be compared: one place and batch, one record for each model."""

    hardware: str
    arithmetic: str
    backend: str
    image_px: int
    source_sha256: str
    batch: int
    models: dict[str, str]
    """Model -> record id."""
    best: tuple[Best, ...]
    fronts: tuple[Front, ...]


class FindingData(_Part):
    """A finding in words, with the records that it rests on."""

    kind: str
    text: str
    record_ids: tuple[str, ...]
    values: dict[str, float]


class ReportData(_Part):
    """The whole file."""

    format: int = FORMAT
    title: str
    sentence: str
    cautions: tuple[str, ...]
    findings: tuple[FindingData, ...]
    fields: tuple[FieldData, ...]
    record_ids: tuple[str, ...]
    """Records of the report, in the order of its rows; of several launches the first."""
    history: History | None = None
    """Where the report was asked for it."""


def report_data(answer: Answer, title: str, record_ids: Sequence[str], history: History | None = None) -> ReportData:
    """Turn an answer into data."""
    return ReportData(
        title=title,
        sentence=answer.sentence,
        cautions=answer.cautions,
        findings=tuple(
            FindingData(kind=each.kind, text=each.text, record_ids=each.record_ids, values=dict(each.values))
            for each in answer.statements
        ),
        fields=tuple(_field(field) for fields in answer.places.values() for field in fields),
        record_ids=tuple(record_ids),
        history=history,
    )


_Read = tuple[Measure, Mapping[str, Reading]]
"""A measure with its readings by model."""


def _field(field: Field) -> FieldData:
    measures = (SPEED, *quality_measures(list(field.models.values())), CACHE)
    speed, *quality, cache = [(measure, measure.readings(field.models)) for measure in measures]
    return FieldData(
        hardware=field.place.hardware,
        arithmetic=field.place.arithmetic,
        backend=field.place.backend,
        image_px=field.place.image_px,
        source_sha256=field.place.source_sha256,
        batch=field.batch,
        models={name: record.record_id for name, record in field.models.items()},
        best=tuple(made for read in (speed, *quality, cache) if (made := _best(read, field)) is not None),
        fronts=tuple(
            found
            for read in quality
            for others in ((speed,), (speed, cache))
            if (found := _front(read, others, field)) is not None
        ),
    )


def _best(read: _Read, field: Field) -> Best | None:
    measure, readings = read
    leaders = measure.leaders(readings)
    if not leaders:
        return None
    name, reading = leaders[0], readings[leaders[0]]
    return Best(
        measure=measure.name,
        better=measure.better,
        unit=measure.unit,
        protocol=measure.protocol,
        record_id=field.models[name].record_id,
        model=name,
        value=reading.value,
        interval=None if reading.low is None or reading.high is None else (reading.low, reading.high),
        not_apart=_ids(leaders[1:], field.models),
    )


def _front(quality: _Read, others: Sequence[_Read], field: Field) -> Front | None:
    names = front_of((quality, *others))
    if not names:
        return None
    measures = tuple(measure.name for measure, _ in (quality, *others))
    return Front(measures=measures, protocol=quality[0].protocol, record_ids=_ids(names, field.models))


def _ids(names: Sequence[str], models: Mapping[str, Record]) -> tuple[str, ...]:
    return tuple(models[name].record_id for name in names)
