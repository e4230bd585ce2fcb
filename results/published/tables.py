"""Reader of the published numbers: a row is a frozen object, a cell that is empty or "not stated" is None or text.

Units    as published: `value` with `unit` in speed.csv, FID and its kin in their own
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from arvbench.errors import UserError, complaint
from arvbench.paths import printable, regular_file

FOLDER = Path(__file__).parent
NOT_STATED = "not stated"
_MOST_BYTES, _MOST_ROWS = 2**20, 10_000

Seen = Literal["first-hand", "second-hand"]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=4000)]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,39}$")]


def _number(text: object) -> object:
    return None if text in ("", NOT_STATED) else text


@dataclass(frozen=True, slots=True)
class Printed:
    """A number with the digits that were printed: 3.30 is known more closely than 3.3."""

    text: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def rounding(self) -> float:
        """Half a unit of the last digit."""
        return 0.5 * 10.0 ** -len(self.text.partition(".")[2])


def _up_to(most: float) -> BeforeValidator:
    """Read a number from 0 to `most` without exponent, sign and spaces; what is not stated is None."""

    def read(text: object) -> Printed | None:
        if _number(text) is None:
            return None
        if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) or float(text) > most:
            raise ValueError(f"{text!r} is no number from 0 to {most:g} in plain digits")
        return Printed(text)

    return BeforeValidator(read)


Distance = Annotated[Printed | None, _up_to(1000)]
Share = Annotated[Printed | None, _up_to(1)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QualityRow(_Row):
    """Quality of generated images, as published."""

    model: Name
    family: Text
    params_m: Text
    resolution: Name
    dataset: Name
    steps: Text
    cfg: Text
    top_k: Text
    top_p: Text
    fid: Distance
    inception_score: Distance = Field(alias="is")
    precision: Share
    recall: Share
    sfid: Distance
    metric_protocol: Name
    source: Name
    table_or_section: Text
    note: Text
    seen: Seen

    @property
    def metrics(self) -> Mapping[str, Printed]:
        """Published values by the metric's name in records."""
        values = {
            "fid": self.fid,
            "is": self.inception_score,
            "precision": self.precision,
            "recall": self.recall,
            "sfid": self.sfid,
        }
        return {metric: value for metric, value in values.items() if value is not None}


class SpeedRow(_Row):
    """A time, a throughput, a memory or a ratio of such, as published."""

    model: Name
    hardware: Text
    batch: Text
    dtype: Text
    resolution: Text
    metric: Name
    value: Name
    unit: Name
    baseline: Text
    counts_vae_decode: Text
    cfg_in_timing: Text
    kv_cache: Text
    source: Name
    conditions: Text
    seen: Seen

    @property
    def number(self) -> float | None:
        """The value; None for words such as "OOM (>100GB)"."""
        return float(self.value) if re.fullmatch(r"\d+(\.\d+)?", self.value) else None


class CheckpointRow(_Row):
    """A file of weights."""

    model: Name
    file: Name
    repo_id: Text
    url: Text
    size: Text
    hash: Text
    code_license: Text
    weights_license: Text
    nesting_key: Text
    tokenizer_checkpoint: Text
    tokenizer_repo: Text
    source: Name
    note: Text
    seen: Seen


class SamplingRow(_Row):
    """Settings behind published samples, quoted."""

    model: Name
    resolution: Text
    cfg: Text
    cfg_formula: Text
    top_k: Text
    top_p: Text
    temperature: Text
    more_smooth: Text
    seed: Text
    num_samples: Text
    label_scheme: Text
    dtype_autocast: Text
    tf32: Text
    post_processing: Text
    patch_nums_or_steps: Text
    mask_schedule: Text
    batch: Text
    source_file: Name
    note: Text
    seen: Seen


class ClaimRow(_Row):
    """A claim of a publication, and what its number counts."""

    id: Identifier
    system: Name
    claim: Name
    quantity: Name
    value: Text
    baseline: Text
    experiment_to_reproduce: Text
    trained_weights_required: Text
    reproducible_one_gpu_random_weights: Text
    source: Name
    note: Text
    counts_decode: Name
    batch_rule: Name
    what_is_counted: Name
    warmup_rule: Name
    sync_rule: Name
    seen: Seen


class SeedRow(_Row):
    """A publication that the search began with."""

    n: Annotated[int, Field(ge=1)]
    system: Name
    title: Name
    year_month: Text
    kind: Name
    code_url_given: Text
    relevance_to_harness: Name
    note: Text


class SourceRow(_Row):
    """A document that is named by index ids."""

    ids: Annotated[str, Field(pattern=r"^\d+( \d+)*$")]
    what: Name
    used_for: Name


class ModelRow(_Row):
    """A model of this package and a name that publications give it."""

    model: Name
    published_as: Name


Row = TypeVar("Row", bound=_Row)


def read_table(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """Read the rows of a CSV file. Raises UserError, naming file, line and column, for a row that is not of `kind`."""
    regular_file(path, most_bytes=_MOST_BYTES)
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for cells in reader:
                if len(rows) == _MOST_ROWS:
                    raise UserError(f"{printable(path)} has more than {_MOST_ROWS:,} rows")
                if None in cells or None in cells.values():
                    raise UserError(
                        f"{printable(path)}, line {reader.line_num}: not as many cells as the heading has columns"
                    )
                rows.append(kind.model_validate(cells))
    except ValidationError as error:
        fields = {"": [field.alias or name for name, field in kind.model_fields.items()]}
        raise UserError(f"{printable(path)}, line {reader.line_num}: {complaint(error, fields)}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {printable(path)}: {str(error)[:200]}") from error
    return tuple(rows)


@cache
def quality_rows() -> tuple[QualityRow, ...]:
    """Return published quality."""
    return read_table(FOLDER / "quality.csv", QualityRow)


@cache
def speed_rows() -> tuple[SpeedRow, ...]:
    """Return published times and memory."""
    return read_table(FOLDER / "speed.csv", SpeedRow)


@cache
def published_names() -> Mapping[str, tuple[str, ...]]:
    """Return the published names of every model of this package that has one."""
    names: dict[str, tuple[str, ...]] = {}
    for row in read_table(FOLDER / "models.csv", ModelRow):
        names[row.model] = (*names.get(row.model, ()), row.published_as)
    return names


@cache
def claim_rows(path: Path = FOLDER / "claims.csv") -> Mapping[str, ClaimRow]:
    """Return claims by id. Raises UserError for an id that stands there twice, and as `read_table`."""
    rows = read_table(path, ClaimRow)
    by_id = {row.id: row for row in rows}
    if len(by_id) < len(rows):
        ids = [row.id for row in rows]
        raise UserError(f"{printable(path)}: id {next(i for i in ids if ids.count(i) > 1)!r} stands there twice")
    return by_id
