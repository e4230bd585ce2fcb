"""Sampling calls of a case: memory, warm-up and timed calls make them, one after another.

Each draws the next images, so that no answer is kept. A case that asks for quality draws the images of that request,
batch by batch; on a CPU the quality part takes those of memory, warm-up and timed calls, and draws the others.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.call import Observer, Samples
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.schedule import Schedule
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.jobs import FEATURES_FOLDER, SHARED_PREFIX, Job, Part
from arvbench.harness.machine.source import source_sha256
from arvbench.harness.measure.correctness import spread_labels
from arvbench.harness.measure.integrity import FreshNoise
from arvbench.harness.quality.features.chunks import folder_name
from arvbench.harness.quality.images.drawn import keep_drawn, kept_drawn
from arvbench.harness.quality.images.live import LiveSource, labels_of, live_source

TIMING_SEED = 0
"""Run seed of the noise of a case without a quality request."""
MOST_KEPT_BYTES = 64 * 2**20
"""Images of later calls are not kept: they would lie in memory while the others are timed."""


class CaseCalls:
    """Sampling calls with the labels, the noise and the kind of cache of one case."""

    def __init__(self, job: Job, sampler: Sampler, settings: SamplingSettings) -> None:
        case = job.case
        self._job, self._sampler, self._settings = job, sampler, settings
        self._source: LiveSource | None = None
        self._labels, seed = spread_labels(case.batch, sampler.spec.num_classes), TIMING_SEED
        if case.quality is not None and not sampler.weights.random:
            self._source, seed = live_source(sampler, settings, case), case.quality.seed
            self._labels = labels_of(case.quality, sampler.spec.num_classes)
        self._noise = FreshNoise(seed, case.batch)
        self._keeps = self._source is not None and self._source.plain and job.part is Part.SPEED
        """True for images that a quality part of this case will ask for, as they are."""
        self._made = 0
        self._drawn: dict[int, Tensor] = {}
        """Number of a call, which is that of a batch, -> its images."""

    def make_cache(self) -> Cache:
        case = self._job.case
        return self._sampler.make_cache(case.cache, self._settings, batch=case.batch)

    def __call__(self, cache: Cache, observer: Observer) -> Samples:
        """Make the next call, labels in, uint8 images out; setting up the noise is part of it."""
        batch, count = self._job.case.batch, len(self._labels)
        labels = [self._labels[number % count] for number in range(self._made * batch, (self._made + 1) * batch)]
        noise = self._noise.next()
        samples = self._sampler.sample(labels, self._settings, noise=noise, cache=cache, observer=observer)
        if self._keeps and self._room_for(samples.images):
            self._drawn[self._made] = samples.images
        self._made += 1
        return samples

    def check(self, schedule: Schedule) -> None:
        """Raise ContractError when a call did not draw the tokens of every step."""
        self._noise.check(schedule)

    def hand_over(self) -> None:
        """Put the images drawn so far on disk for the quality part, and forget them."""
        if self._drawn and self._source is not None:
            keep_drawn(drawn_file(self._job.folder, self._source), drawn_key(self._source), self._drawn)
        self._drawn, self._keeps = {}, False

    def _room_for(self, images: Tensor) -> bool:
        """True for a whole batch of the request, while there is room; a GPU's memory is not filled with them."""
        whole = self._source is not None and (self._made + 1) * len(images) <= self._source.count
        return whole and images.device.type == "cpu" and (len(self._drawn) + 1) * images.nbytes <= MOST_KEPT_BYTES


def drawn_file(folder: Path, source: LiveSource) -> Path:
    """Return the file of the images that the timed calls of a case drew; it goes at the end of the run."""
    return folder / FEATURES_FOLDER / f"{SHARED_PREFIX}{folder_name(drawn_key(source))}" / "drawn.safetensors"


def drawn_key(source: LiveSource) -> str:
    """Return text that changes with all that could change a byte of the images."""
    return f"{source.key}\nthreads {torch.get_num_threads()}\ntorch {torch.__version__} source {source_sha256()}"


def drawn_batches(folder: Path, source: LiveSource) -> dict[int, Tensor]:
    """Return the images that the speed part of a case left, by number of the batch."""
    height, width = source.shape
    return kept_drawn(drawn_file(folder, source), drawn_key(source), (source.batch, 3, height, width))
