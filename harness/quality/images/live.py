"""Images sampled from a model when they are read, without touching the disk.

Image i is sampled with label i and with noise that is a hash of the run seed and i. Batches begin at multiples of the
batch size, whichever range is read: reading in ranges, in any number of processes, gives the bytes of one whole read.
Another batch size gives equal tokens unless two candidates are so close that rounding decides between them, and equal
images up to one step of a byte (measured in tests/harness/quality/images/test_live.py).

Shapes   N images
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.decoding import decode_in_half
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.methods.request import spec_of
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import HostError, UserError
from arvbench.harness.data.labels import labels_for
from arvbench.harness.machine.failures import is_out_of_memory
from arvbench.harness.quality.images.resize import NO_RESIZE, parse_resize
from arvbench.harness.quality.images.source import UNKNOWN, ImageSource, ModelImages, Provenance
from arvbench.harness.quality.images.stored import check_range
from arvbench.kernels.dispatch import select
from arvbench.results.schema import CaseConfig, QualityRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededLabels:
    """Labels of the images to sample, and the seed of their noise."""

    labels: Sequence[int]
    """Class of image i."""
    scheme: str = UNKNOWN
    """Label scheme, as in `Provenance.labels`."""
    run_seed: int = 0
    """The noise of image i is a hash of this seed and i."""


class LiveSource(ImageSource):
    """One image per label, from a sampler.

    `batch` should divide the chunk size (256); a batch that straddles two chunks is sampled twice.
    """

    sampled_here = True

    def __init__(
        self,
        sampler: Sampler,
        settings: SamplingSettings,
        seeded: SeededLabels,
        *,
        batch: int = 1,
        cache_policy: str | None = None,
        resize: str | None = None,
    ) -> None:
        """Raise UserError for labels, settings, a cache or a resize that do not fit; nothing is sampled yet.

        `cache_policy` None takes that of the backend. `resize` ("bicubic:256") applies to the decoded float image,
        before it becomes bytes.
        """
        sampler.check_settings(sampler.spec, settings)
        sampler.check_labels(seeded.labels)
        if batch < 1:
            raise UserError(f"batch {batch}: at least one image is sampled at a time")
        self.sampler, self.settings, self._labels = sampler, settings, list(seeded.labels)
        self._run_seed, self.batch, self._resize = seeded.run_seed, batch, parse_resize(resize)
        self._policy = sampler.make_cache(cache_policy, settings, batch=1).policy
        self._caches: dict[int, Cache] = {}
        self.drawn: Mapping[int, Tensor] = {}
        """Number of a batch -> its images, where an equal call has drawn them before."""
        self.shown: dict[int, Tensor | None] = {}
        """Number of an image to look at -> the image, once it is read."""
        self._latest: tuple[int, Tensor] | None = None
        """Number and images of the latest batch, so that the next read inside it samples nothing."""
        self.name, self.count = sampler.spec.name, len(self._labels)
        self.labels_N = torch.tensor(self._labels, dtype=torch.int64)
        self.seeds_N = torch.arange(self.count)
        self.shape = sampler.image_shape(settings)
        if self._resize is not None:
            self._resize.check(self.shape, self.name)
            self.shape = self._resize.shape
        self.provenance = Provenance(
            labels=seeded.scheme,
            uint8_rule=settings.uint8_rule,
            resize=str(self._resize or NO_RESIZE),
            model=f"{self.name}, weights {sampler.weights.source}, {self._precision()}; {settings.model_dump_json()}",
            seeds=f"noise of image i is a hash of run seed {seeded.run_seed} and i",
        )

    @property
    def plain(self) -> bool:
        """True when images stay as sampling calls return them."""
        return self._resize is None

    def read(self, start: int, stop: int) -> Tensor:
        """Sample images start..stop-1. Raises UserError for NaN, HostError when memory does not suffice."""
        check_range(start, stop, self.count, self.name)
        images_n3HW = torch.empty(stop - start, 3, *self.shape, dtype=torch.uint8)
        for number in range(start // self.batch, -(-stop // self.batch) if stop > start else 0):
            first = number * self.batch
            low, high = max(start, first), min(stop, first + self.batch)
            images_n3HW[low - start : high - start] = self._batch_images(number)[low - first : high - first]
        self.shown |= {n: images_n3HW[n - start].clone() for n in self.shown if start <= n < stop}
        return images_n3HW

    def draw(self, numbers: Sequence[int]) -> Tensor:
        """Sample the images `numbers`, at most a batch, by themselves. Errors as in `read`."""
        return self._sample(numbers)

    @property
    def key(self) -> str:
        weights = sorted(self.sampler.weights.sha256.items()) or self.sampler.weights.source
        # Without what calls have told so far.
        kernels = sorted((name, used.split("; ")[0]) for name, used in self.sampler.kernels.items())
        labels = hashlib.sha256(repr(self._labels).encode()).hexdigest()
        return "\n".join(
            (
                f"model {self.name} weights {weights}",
                f"{self._precision()}, kernels {kernels}",
                f"cache {self._policy} batch {self.batch} matmul {torch.get_float32_matmul_precision()}",
                f"settings {self.settings.model_dump_json()}",
                f"run seed {self._run_seed} labels {self.provenance.labels} {labels}",
                f"resize {self.provenance.resize}",
            )
        )

    def _precision(self) -> str:
        sampler = self.sampler
        return f"{str(sampler.dtype).removeprefix('torch.')} on {sampler.device.type}, {sampler.backend} backend"

    def _batch_images(self, number: int) -> Tensor:
        """Return all images of a batch, sampled unless it is the latest one."""
        if self._latest is None or self._latest[0] != number:
            self._latest = None  # never two batches in memory
            numbers = range(number * self.batch, min(self.count, (number + 1) * self.batch))
            self._latest = (number, self.drawn[number] if number in self.drawn else self._sample(numbers))
        return self._latest[1]

    def _sample(self, numbers: Sequence[int]) -> Tensor:
        try:
            samples = self.sampler.sample(
                [self._labels[number] for number in numbers],
                self.settings,
                noise=PerImageNoise(self._run_seed, numbers),
                cache=self._cache(len(numbers)),
            )
            if not bool(samples.decoded.isfinite().all()):
                raise UserError(
                    f"images {numbers[0]}..{numbers[-1]} of {self.name} hold NaN or infinity "
                    f"({self._precision()}): such images have no quality; try float32 or other weights"
                )
            if self._resize is None:
                return samples.images.cpu()
            return self._resize.of_decoded(samples.decoded, self.settings.uint8_rule).cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise HostError(
                f"batch {self.batch} of {self.name} does not fit into memory: take a smaller one"
            ) from error

    def _cache(self, batch: int) -> Cache:
        if batch not in self._caches:
            self._caches.clear()  # the smaller last batch needs its own cache; never two in memory
            self._caches[batch] = self.sampler.make_cache(self._policy, self.settings, batch=batch)
        return self._caches[batch]


def load_case_sampler(
    case: CaseConfig, weights_read: Callable[[], None] | None = None
) -> tuple[Sampler, SamplingSettings]:
    """Load a case's model, and return it with its official settings as overridden by those of the case.

    `weights_read` is called when the weights are read and the modules are not built yet.
    """
    sampler = build_sampler(
        spec_of(case.model, case.method),
        weights=case.weights,
        device=case.device,
        dtype=getattr(torch, case.dtype),
        backend=case.backend,
        weights_read=weights_read,
    )
    if case.kernels:
        sampler.use_kernels(select(case.backend, sampler.device, choices=case.kernels))
    return sampler, sampler.spec.settings.replace(**case.settings)


def load_live_source(case: CaseConfig, *, half_decode: bool = False) -> LiveSource:
    """Load a case's model, and return the source of its quality request."""
    sampler, settings = load_case_sampler(case)
    if half_decode:
        decode_in_half(sampler)
    return live_source(sampler, settings, case)


def live_source(sampler: Sampler, settings: SamplingSettings, case: CaseConfig) -> LiveSource:
    """Return the source of a case's quality request; its address is the case, by which other processes open it."""
    request = case.quality
    assert request is not None
    labels = labels_of(request, sampler.spec.num_classes)
    source = LiveSource(
        sampler,
        settings,
        SeededLabels(labels=labels, scheme=request.labels, run_seed=request.seed),
        batch=case.batch,
        cache_policy=case.cache,
        resize=request.resize,
    )
    source.address = ModelImages(case=case, half_decode=sampler.half_decoder is not None)
    return source


def labels_of(request: QualityRequest, classes: int) -> list[int]:
    """Return the label of every image of a quality request."""
    return labels_for(request.labels, request.images, classes, seed=request.seed)
