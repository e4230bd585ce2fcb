"""Images that a case is judged by: many for quality, a few per class for the eye.

Shapes   N images, H W height and width
Range    uint8 0..255 NCHW
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from arvbench.adapters.base import Sampler, SamplingSettings, from_uint8, to_uint8
from arvbench.adapters.cache.base import Cache
from arvbench.adapters.sampling import PerImageNoise
from arvbench.harness.jobs import Event, EventListener, Job
from arvbench.harness.measure.correctness import spread_labels
from arvbench.results.schema import Quality, QualityRequest, SampleSheet

SHEET_CLASSES = 10
"""Most rows of a sample sheet; a model with more classes shows some, spread evenly."""
SHEET_SEED = 1
"""Run seed of the sheet's noise."""
SHEETS_FOLDER = "samples"


def generate(
    sampler: Sampler,
    labels: Sequence[int],
    settings: SamplingSettings,
    *,
    run_seed: int,
    batch: int,
    cache_policy: str | None,
) -> Iterator[Tensor]:
    """Yield images (n <= batch, 3, H, W) uint8 on the CPU. Image i depends on run_seed and i, not on the batch."""
    caches: dict[int, Cache] = {}
    for start in range(0, len(labels), batch):
        part = labels[start : start + batch]
        if len(part) not in caches:
            caches.clear()  # the last, smaller batch needs a cache of its own, and not both at once
            caches[len(part)] = sampler.make_cache(cache_policy, settings, batch=len(part))
        noise = PerImageNoise(run_seed, range(start, start + len(part)))
        yield sampler.sample(part, settings, noise=noise, cache=caches[len(part)]).images.cpu()


def measure_case_quality(
    job: Job,
    request: QualityRequest,
    sampler: Sampler,
    settings: SamplingSettings,
    progress: Callable[[int], None],
) -> tuple[Quality, ...]:
    """Generate request.images images, as many of every class, and compute the numbers that are asked for."""
    from arvbench.harness.quality.metrics import SampleScheme, measure_quality

    labels = sorted(spread_labels(request.images, sampler.spec.num_classes))
    batches: list[Tensor] = []
    for images in generate(
        sampler,
        labels,
        settings,
        run_seed=request.seed,
        batch=job.case.batch,
        cache_policy=job.case.cache,
    ):
        batches.append(images)
        progress(sum(map(len, batches)))
    numbers = measure_quality(
        torch.cat(batches),
        request,
        scheme=SampleScheme(labels="equal per class, in order", uint8_rule=settings.uint8_rule),
        labels_N=torch.tensor(labels),
        inception_weights=job.inception_weights,
        device=sampler.device,
    )
    return numbers + reconstruction_quality(sampler, request, settings, job.case.batch, job.inception_weights)


def reconstruction_quality(
    sampler: Sampler,
    request: QualityRequest,
    settings: SamplingSettings,
    batch: int,
    inception_weights: Path | None = None,
) -> tuple[Quality, ...]:
    """FID of the tokenizer alone: the reference's own images, encoded and decoded, against the reference.

    No sampler on this tokenizer can be expected below it. As many images as are generated, spread over the data set, or
    all of a smaller one: the bias of FID depends on their number. Empty unless FID was asked for on a named data set of
    the model's size.
    """
    from arvbench.harness.quality.metrics import SampleScheme, measure_quality
    from arvbench.harness.quality.reference import reference_images

    images_N3HW = reference_images(request.reference)
    if images_N3HW is None or "fid" not in request.metrics or images_N3HW.shape[2] != sampler.spec.image_px:
        return ()
    if request.images < len(images_N3HW):
        images_N3HW = images_N3HW[torch.linspace(0, len(images_N3HW) - 1, request.images).long()]
    restored = [
        to_uint8(sampler.decode(sampler.encode(from_uint8(part.to(sampler.device)))), settings.uint8_rule).cpu()
        for part in images_N3HW.split(batch)
    ]
    numbers = measure_quality(
        torch.cat(restored),
        request.model_copy(update={"images": len(images_N3HW), "metrics": ("fid",)}),
        scheme=SampleScheme(
            labels="those of the data set", uint8_rule=settings.uint8_rule, sampling="tokenizer reconstruction"
        ),
        inception_weights=inception_weights,
        device=sampler.device,
    )
    return tuple(number.model_copy(update={"metric": "reconstruction-fid"}) for number in numbers)


def draw_sample_sheet(job: Job, sampler: Sampler, settings: SamplingSettings, listener: EventListener) -> SampleSheet:
    """Write a PNG with one row per class and `sample_sheet` columns below the run folder."""
    from PIL import Image

    listener(Event(phase="sample sheet"))
    columns, count = job.case.sample_sheet, sampler.spec.num_classes
    classes = spread_labels(min(SHEET_CLASSES, count), count)
    labels = [label for label in classes for _ in range(columns)]
    drawn = generate(
        sampler,
        labels,
        settings,
        run_seed=SHEET_SEED,
        batch=job.case.batch,
        cache_policy=job.case.cache,
    )
    images_NHW3 = torch.cat(list(drawn)).permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(images_NHW3[i : i + columns], axis=1) for i in range(0, len(labels), columns)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows, axis=0)).save(buffer, format="PNG")
    path = job.folder / SHEETS_FOLDER / f"{job.record_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return SampleSheet(
        path=f"{SHEETS_FOLDER}/{path.name}",
        sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        classes=tuple(classes),
        columns=columns,
        image_px=images_NHW3.shape[1],
    )
