"""Records as a table: one row per record, for pandas and Parquet.

Columns   _ns nanoseconds (median of the raw samples), _bytes bytes; a quality number has the column "PROTOCOL METRIC",
          and its protocol id the same with " id" behind it: numbers of different ids are not compared; "search" says
          what a record is to its search, such as "best of 5"
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from arvbench.errors import HostError, UserError
from arvbench.files import replacing
from arvbench.results.moments import in_utc
from arvbench.results.records import read_records
from arvbench.results.schema import Failed, Measured, Record
from arvbench.results.search import marks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pandas import DataFrame

_CASE = ("model", "weights", "device", "dtype", "backend", "cache", "batch", "threads", "recipe")
_SCOPES = ("images", "tokens", "decode")


def frame(path: Path | str) -> DataFrame:
    """Read a run folder or a records file as a data frame. Raises UserError as `read_records`."""
    return frame_of(read_records(Path(path)))


def frame_of(records: Iterable[Record]) -> DataFrame:
    """Return records as a data frame, in their order; columns without a value in any record are left out."""
    import pandas

    records = list(records)
    found = marks(records)
    rows = [row(record) | {"search": found.get(record.record_id)} for record in records]
    return pandas.DataFrame.from_records(rows).dropna(axis="columns", how="all")


def write_parquet(records: Iterable[Record], path: Path) -> None:
    """Write the frame of records as a Parquet file, whole or not at all. Raises HostError without pyarrow."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise HostError("Parquet needs pyarrow: pip install 'arvbench[parquet]'") from error
    try:
        with replacing(path) as part:
            frame_of(records).to_parquet(part, index=False)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def row(record: Record) -> dict[str, Any]:
    """Return one record as column -> value."""
    environment, gpu = record.environment, record.environment.gpu
    values: dict[str, Any] = {
        "record_id": record.record_id,
        "suite": record.suite,
        "case_id": record.case_id,
        "launch": record.launch,
        "status": str(record.status),
        "started": in_utc(record.started),
        "finished": in_utc(record.finished),
        **{name: getattr(record.case, name) for name in _CASE},
        "cpu": environment.cpu,
        "cores": environment.cores,
        "gpu": gpu.name if gpu else None,
        "source_sha256": environment.source_sha256,
        "git_commit": environment.git_commit,
    }
    match record.outcome:
        case Measured() as outcome:
            values |= _numbers(outcome)
        case Failed(reason=reason):
            values["reason"] = reason
    return values


def _numbers(outcome: Measured) -> dict[str, Any]:
    times = {t.scope: t for t in outcome.timings if t.scope in _SCOPES and t.samples_ns}
    values: dict[str, Any] = {f"{scope}_ns": median(timing.samples_ns) for scope, timing in times.items()}
    if "images" in times and values["images_ns"] > 0:
        values["images_per_s"] = times["images"].images / values["images_ns"] * 1e9
    memory = outcome.memory
    values |= {name: getattr(memory, name) for name in ("weights_bytes", "cache_live_bytes", "peak_bytes")}
    for number in outcome.quality:
        name = f"{number.protocol_name or number.protocol} {number.metric}"
        values |= {name: number.value, f"{name} id": number.protocol_id}
    return values
