"""Sample sheet: a picture with a few images per class.

Range    uint8 0..255
"""

from __future__ import annotations

import hashlib
import io

import numpy as np

from arvbench.adapters.sampler import Sampler
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import HostError
from arvbench.files import write_whole
from arvbench.harness.jobs import SHEETS_FOLDER, Event, EventListener, Job
from arvbench.harness.measure.correctness import spread_labels
from arvbench.harness.quality.images.live import LiveSource, SeededLabels
from arvbench.results.schema import SampleSheet

SHEET_CLASSES = 10
"""Maximum number of rows; of more classes, some are shown, spread evenly."""
SHEET_SEED = 1
"""Run seed of the sheet's noise."""


def draw_sample_sheet(job: Job, sampler: Sampler, settings: SamplingSettings, listener: EventListener) -> SampleSheet:
    """Write a PNG below the run folder, one row per class and `sample_sheet` columns, and return its description."""
    from PIL import Image

    listener(Event(phase="sample sheet"))
    columns, count = job.case.sample_sheet, sampler.spec.num_classes
    classes = spread_labels(min(SHEET_CLASSES, count), count)
    labels = [label for label in classes for _ in range(columns)]
    source = LiveSource(
        sampler,
        settings,
        SeededLabels(labels=labels, scheme="balanced", run_seed=SHEET_SEED),
        batch=job.case.batch,
        cache_policy=job.case.cache,
    )
    images_NHW3 = source.read(0, source.count).permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(images_NHW3[i : i + columns], axis=1) for i in range(0, len(labels), columns)]
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
