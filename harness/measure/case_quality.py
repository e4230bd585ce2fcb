"""Quality of a case's samples, and of its tokenizer's reconstructions, which bound it.

Shapes   N images, H W height and width
Range    uint8 0..255 NCHW
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from arvbench.adapters.sampler import Sampler
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import HostError
from arvbench.files import hidden, locked
from arvbench.harness.jobs import FEATURES_FOLDER, SHARED_PREFIX, Event, EventListener, Job, Part, features_mark
from arvbench.harness.measure.calls import drawn_batches
from arvbench.harness.measure.reconstructions import Reconstructions
from arvbench.harness.quality.evaluation import Evaluation, EvaluationRequest, evaluate, extract_shard
from arvbench.harness.quality.features.chunks import folder_name
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.images.live import live_source
from arvbench.harness.quality.protocols.protocol import PROTOCOLS, Options
from arvbench.harness.quality.reference import reference_images
from arvbench.harness.quality.reference.official import find_reference
from arvbench.harness.suites.recipes import official_facts
from arvbench.results.schema import Quality, QualityRequest


def measure_case_quality(
    job: Job,
    sampler: Sampler,
    settings: SamplingSettings,
    listener: EventListener,
    shown: dict[int, Tensor | None] | None = None,
) -> Evaluation:
    """Draw the images of the quality request, and compute its numbers; those of `shown` that are read stay in it.

    Features of finished chunks stay below the run folder until the record is stored, so that a killed run resumes.
    """
    request = job.case.quality
    assert request is not None
    source = live_source(sampler, settings, job.case)
    source.shown = {} if shown is None else shown
    if job.part is Part.QUALITY:
        source.drawn = drawn_batches(job.folder, source)
    works = job.folder / FEATURES_FOLDER
    work_folder = works / folder_name(f"{source.key} {request.model_dump_json()}")
    features = FeaturePass(device=sampler.device, extractor_files=job.extractor_files)
    with _kept(work_folder, features_mark(work_folder, job.record_id)):
        evaluation = evaluate(
            source,
            evaluation_request(request),
            features=replace(features, workers=request.workers, work=work_folder, folder_per_task=True),
            recipe=official_facts(sampler.spec.name),
            listener=lambda event: listener(_renamed(event)),
        )
        # Only a run removes what its cases share.
        shared = works if job.run else None
        reconstructed = reconstruction_quality(sampler, request, settings, job.case.batch, features, shared=shared)
    return replace(evaluation, numbers=evaluation.numbers + reconstructed)


def measure_case_features(job: Job, sampler: Sampler, settings: SamplingSettings, listener: EventListener) -> Path:
    """Draw the images of the job's shard, and keep their features where `measure_case_quality` looks for them.

    Return the folder of their chunks.
    """
    request, shard = job.case.quality, job.shard
    assert request is not None and shard is not None
    source = live_source(sampler, settings, job.case)
    work_folder = job.folder / FEATURES_FOLDER / folder_name(f"{source.key} {request.model_dump_json()}")
    features = FeaturePass(device=sampler.device, extractor_files=job.extractor_files)
    features = replace(features, workers=request.workers, work=work_folder, folder_per_task=True)
    with _kept(work_folder):
        return extract_shard(
            source,
            evaluation_request(request),
            shard,
            features=features,
            listener=lambda event: listener(_renamed(event)),
        )


@contextmanager
def _kept(work_folder: Path, mark: Path | None = None) -> Iterator[None]:
    """Make a folder of features, keep runners from removing it, and mark it when the numbers are made.

    The runner removes a marked folder once the record is stored, and the others at the end of the run, unless another
    process reads them (run/leftovers.py).
    """
    with ExitStack() as stack:
        try:
            work_folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(hidden(work_folder, "lock"), shared=True))
            work_folder.mkdir(exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot keep features in {work_folder}: {error.strerror or error}") from error
        yield
        with suppress(OSError):  # a full disk: the features stay until the case is measured again
            if mark is not None:
                mark.touch()


def _renamed(event: Event) -> Event:
    """Prefix the phase with "quality:" and move its note there, since listeners print notes as separate lines."""
    return event.model_copy(update={"phase": f"quality: {event.note or event.phase}", "note": ""})


def evaluation_request(request: QualityRequest) -> EvaluationRequest:
    """Convert the quality request of a case into an evaluation request."""
    return EvaluationRequest(
        protocols=request.protocols,
        reference=find_reference(request.reference),
        metrics=request.metrics,
        options=Options(bootstrap=request.bootstrap, seed=request.seed),
    )


def reconstruction_quality(
    sampler: Sampler,
    request: QualityRequest,
    settings: SamplingSettings,
    batch: int,
    features: FeaturePass | None = None,
    *,
    shared: Path | None = None,
) -> tuple[Quality, ...]:
    """Return the FID of the tokenizer alone: images of the reference, encoded and decoded, against the reference.

    It bounds the FID of any sampler with this tokenizer. The bias of FID depends on the number of images, so there are
    as many as generated ones, spread over the data set, or all of a smaller one. Empty unless the request has FID on a
    named data set whose images have the model's size. Cases with equal tokenizers share features below `shared`.
    """
    images_N3HW = reference_images(request.reference)
    protocols = tuple(name for name in request.protocols if any(m.name == "fid" for m in PROTOCOLS[name].metrics))
    requested = not request.metrics or "fid" in request.metrics
    if images_N3HW is None or not requested or not protocols or images_N3HW.shape[2] != sampler.spec.image_px:
        return ()
    if request.images < len(images_N3HW):
        images_N3HW = images_N3HW[torch.linspace(0, len(images_N3HW) - 1, request.images).long()]
    source = Reconstructions(sampler, images_N3HW, batch=batch, uint8_rule=settings.uint8_rule)
    features = features or FeaturePass(device=sampler.device)
    with ExitStack() as stack:
        if shared is not None:
            work = shared / f"{SHARED_PREFIX}{folder_name(source.key)}"
            stack.enter_context(_kept(work))
            features = replace(features, work=work, folder_per_task=True)
        fid_only = replace(evaluation_request(request), protocols=protocols, metrics=("fid",))
        numbers = evaluate(source, fid_only, features=features).numbers
    return tuple(number.model_copy(update={"metric": "reconstruction-fid"}) for number in numbers)
