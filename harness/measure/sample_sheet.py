"""Sample sheet: a picture with a few images per class.

They are images of the quality request where it has enough of every class shown, so that the picture is of what the
numbers are of; else images of their own.

Range    uint8 0..255
"""

from __future__ import annotations

import hashlib
import io
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from arvbench.adapters.sampler import Sampler
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import HostError
from arvbench.files import write_whole
from arvbench.harness.jobs import SHEETS_FOLDER, Event, EventListener, Job
from arvbench.harness.measure.correctness import spread_labels
from arvbench.harness.quality.images.live import LiveSource, SeededLabels, labels_of, live_source
from arvbench.results.schema import CaseConfig, SampleSheet

SHEET_CLASSES = 10
"""Maximum number of rows; of more classes, some are shown, spread evenly."""
SHEET_SEED = 1
"""Run seed of the sheet's noise."""


def images_to_show(case: CaseConfig, classes: int) -> dict[int, Tensor | None]:
    """Return the numbers of the images of the quality request that the sheet shows, row by row, none of them read yet.

    There are none without a request, and where it resizes images or has fewer of a class than the sheet has columns.
    """
    request, columns = case.quality, case.sample_sheet
    if request is None or request.resize is not None:
        return {}
    labels = labels_of(request, classes)
    rows = [[number for number, label in enumerate(labels) if label == row][:columns] for row in sheet_rows(classes)]
    return dict.fromkeys(chain(*rows)) if all(len(row) == columns for row in rows) else {}


def sheet_rows(classes: int) -> list[int]:
    """Return the class of every row."""
    return spread_labels(min(SHEET_CLASSES, classes), classes)


def draw_sample_sheet(
    job: Job,
    sampler: Sampler,
    settings: SamplingSettings,
    listener: EventListener,
    shown: dict[int, Tensor | None] | None = None,
) -> SampleSheet:
    """Write a PNG below the run folder, one row per class and `sample_sheet` columns, and return its description.

    `shown` is that of `images_to_show`; images that nothing has read are drawn.
    """
    from PIL import Image

    listener(Event(phase="sample sheet"))
    case, columns, classes = job.case, job.case.sample_sheet, sheet_rows(sampler.spec.num_classes)
    if shown:
        source = live_source(sampler, settings, case)
    else:
        labels = [label for label in classes for _ in range(columns)]
        seeded = SeededLabels(labels=labels, scheme="balanced", run_seed=SHEET_SEED)
        source = LiveSource(sampler, settings, seeded, batch=case.batch, cache_policy=case.cache)
        shown = dict.fromkeys(range(source.count))
    images = {number: image for number, image in shown.items() if image is not None}
    missing = [number for number in shown if number not in images]
    for first in range(0, len(missing), case.batch):
        numbers = missing[first : first + case.batch]
        images |= zip(numbers, source.draw(numbers), strict=True)
    images_NHW3 = torch.stack([images[number] for number in shown]).permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(images_NHW3[i : i + columns], axis=1) for i in range(0, len(images_NHW3), columns)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows, axis=0)).save(buffer, format="PNG")
    path = job.folder / SHEETS_FOLDER / f"{job.record_id}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise HostError(f"cannot write the sample sheet {path}: {error.strerror or error}") from error
    return SampleSheet(
        path=f"{SHEETS_FOLDER}/{path.name}",
        sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        classes=tuple(classes),
        columns=columns,
        image_px=images_NHW3.shape[1],
    )
