"""Pictures of generated images: read beside the records, checked, and embedded in the page.

A record is untrusted: its picture must lie in the folder of the records file, have the recorded sha256, and be a PNG.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from arvbench.reports.numbers import plain
from arvbench.results.schema import SampleSheet

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 32 * 2**20
"""Largest picture that is embedded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePicture:
    """Sample sheet of one case: its data, or the problem that prevents showing it."""

    case: str
    classes: tuple[int, ...]
    columns: int
    image_px: int
    marks: tuple[str, ...]
    data_uri: str | None
    problem: str = ""


def load_picture(sheet: SampleSheet, *, folder: Path, case: str, marks: tuple[str, ...]) -> SamplePicture:
    """Read the picture of `sheet` from `folder`, where its records file is; a bad picture becomes a `problem`."""
    data, problem = read_picture(sheet, folder)
    return SamplePicture(
        case=case,
        classes=sheet.classes,
        columns=sheet.columns,
        image_px=sheet.image_px,
        marks=marks,
        data_uri=None if data is None else f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}",
        problem=problem,
    )


def read_picture(sheet: SampleSheet, folder: Path) -> tuple[bytes | None, str]:
    """Return the bytes of the picture of `sheet` in `folder`, or None and the problem."""
    shown = plain(sheet.path)
    root = folder.resolve()
    try:
        path = (root / sheet.path).resolve()
        if not path.is_relative_to(root):
            return None, f"{shown} lies outside the folder of the records and was not read"
        if not path.is_file():
            return None, f"{shown} is not beside the records"
        if path.stat().st_size > MAX_BYTES:
            return None, f"{shown} is larger than {MAX_BYTES // 2**20} MiB"
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        return None, f"{shown} cannot be read: {plain(error)}"
    if hashlib.sha256(data).hexdigest() != sheet.sha256.lower():
        return None, f"{shown} is not the picture that was recorded: its sha256 differs"
    if not data.startswith(_PNG_SIGNATURE):
        return None, f"{shown} is not a PNG"
    return data, ""
