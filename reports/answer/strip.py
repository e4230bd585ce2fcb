"""Strip of samples: the first image of every class by each compared model, cut out of their sample sheets.

Image n of a sheet has the noise of image n, so that sheets with the same classes and columns have equal labels and
noise; others are left out.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from arvbench.reports.answer.answer import Answer, lead_of
from arvbench.reports.blocks import Strip
from arvbench.reports.cases import group_by, measured
from arvbench.reports.samples import read_picture
from arvbench.results.schema import SampleSheet

MOST_MODELS = 12
_MOST_PIXELS = 2**24
"""Largest sheet that is decoded."""


def sample_strip(answer: Answer, folders: Mapping[str, Path]) -> Sequence[Strip]:
    """Cut the strip of the models that the findings begin with; nothing for fewer than two with equal sheets.

    `folders` maps record ids to the folders of their records files.
    """
    lead = lead_of(answer)
    sheets = [
        (name, outcome.sample_sheet, folders[record.record_id])
        for name, record in (lead.models if lead is not None else {}).items()
        for _, outcome in measured([record])
        if outcome.sample_sheet is not None
    ]
    groups = group_by(sheets, lambda each: (each[1].classes, each[1].columns, each[1].image_px))
    (classes, _, image_px), members = max(groups.items(), key=lambda item: len(item[1]), default=(((), 0, 0), []))
    rows = [(name, uri) for name, sheet, folder in members[:MOST_MODELS] if (uri := _first_images(sheet, folder))]
    return [Strip(classes=classes, image_px=image_px, rows=tuple(rows))] if len(rows) > 1 else []


def _first_images(sheet: SampleSheet, folder: Path) -> str:
    """Return a PNG of the first image of every class, side by side, as a data URI; "" for a picture that is not so."""
    from PIL import Image

    data, _ = read_picture(sheet, folder)
    px, count = sheet.image_px, len(sheet.classes)
    if data is None or min(px, sheet.columns) <= 0 or count * px * sheet.columns * px > _MOST_PIXELS:
        return ""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            width_px, height_px = opened.size
            if height_px != count * px or width_px % sheet.columns or width_px * height_px > _MOST_PIXELS:
                return ""
            whole, one_px = opened.convert("RGB"), width_px // sheet.columns
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    strip = Image.new("RGB", (one_px * count, px))
    for place in range(count):
        strip.paste(whole.crop((0, place * px, one_px, (place + 1) * px)), (place * one_px, 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
