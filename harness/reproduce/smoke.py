"""Checks of the smoke image, before hours are spent: the backend against its judge, the pixels, a recorded image.

Shapes   N images, H W height and width
Range    uint8 0..255
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from arvbench.errors import HostError, UserError
from arvbench.paths import regular_file
from arvbench.reports.numbers import scientific
from arvbench.results.published.demo import demo_runs
from arvbench.results.reproduction import SmokeCheck
from arvbench.results.schema import Failed, Incorrect, Measured, Record, SampleSheet, Status

_FLAT: Final = 2.0
"""Standard deviation of the bytes of an image below which it is one colour."""
_EQUAL_SHARE: Final = 0.8
"""Share of the recorded images that must be met: a token that lies at the edge may fall otherwise on another
processor, and then its image is another."""
_MOST_BYTES: Final = 2**28


def smoke_checks(record: Record, folder: Path) -> tuple[SmokeCheck, ...]:
    """Return the checks of a smoke record. Raises UserError for weights that were refused, HostError for no room."""
    outcome = record.outcome
    if isinstance(outcome, Failed):
        kind = HostError if outcome.status in (Status.OOM, Status.TIMEOUT) else UserError
        raise kind(f"the smoke image of {record.case.model} failed: {outcome.status.value}: {outcome.reason}")
    return (_correct(outcome), *(_pixels(outcome, record.case.model, folder) if isinstance(outcome, Measured) else ()))


def _correct(outcome: Measured | Incorrect) -> SmokeCheck:
    check = outcome.correctness
    tokens = "" if check.equal_tokens is None else f"{100 * check.equal_tokens:.1f} % of tokens equal, "
    return SmokeCheck(
        name="backend",
        passed=check.passed,
        text=f"against the {check.judge}: {tokens}largest difference {scientific(check.max_abs_diff)} (allowed "
        f"{scientific(check.tolerance)})",
    )


def _pixels(outcome: Measured, model: str, folder: Path) -> Iterator[SmokeCheck]:
    sheet = outcome.sample_sheet
    assert sheet is not None
    images_NHW3 = images_of(_read(folder / sheet.path), sheet)
    flat = int((images_NHW3.reshape(len(images_NHW3), -1).std(axis=1) < _FLAT).sum())
    yield SmokeCheck(
        name="pixels",
        passed=flat == 0,
        text=f"{len(images_NHW3)} images from finite floats, {flat or 'none'} of one colour",
    )
    yield _recorded(model, sheet, images_NHW3)


def images_of(png: bytes, sheet: SampleSheet) -> NDArray[np.uint8]:
    """Return the images of a sheet with one column."""
    from PIL import Image

    rows = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return rows.reshape(len(sheet.classes), -1, rows.shape[1], 3)


def _read(path: Path) -> bytes:
    try:
        regular_file(path, most_bytes=_MOST_BYTES)
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the smoke image {path}: {error.strerror or error}") from error


def _recorded(model: str, sheet: SampleSheet, images_NHW3: NDArray[np.uint8]) -> SmokeCheck:
    """Compare with the recorded image; without one, say so with the digest of this one."""
    run = demo_runs().runs.get(model)
    name = "recorded image"
    if run is None:
        text = f"none of {model} is known; this one has sha256 {sheet.sha256[:16]}..."
        return SmokeCheck(name=name, passed=None, text=text)
    recorded = images_of(base64.b64decode(run.smoke_png), sheet).astype(np.int16)
    if recorded.shape != images_NHW3.shape or run.smoke_classes != sheet.classes:
        return SmokeCheck(name=name, passed=False, text="the recorded image has another size or other classes")
    apart = np.abs(recorded - images_NHW3.astype(np.int16)).reshape(len(recorded), -1).max(axis=1)
    equal = int((apart <= 1).sum())
    return SmokeCheck(
        name=name,
        passed=equal >= _EQUAL_SHARE * len(recorded),
        text=f"{equal} of {len(recorded)} images equal up to one step of a byte (at least "
        f"{_EQUAL_SHARE:.0%} must be), {int((apart == 0).sum())} of them to the bit",
    )
