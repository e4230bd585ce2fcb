"""Quality of what a case draws: its model as a source of images, and the floor that its tokenizer sets.

Shapes   N images, H W height and width
Range    uint8 0..255 NCHW
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from arvbench.adapters.base import Sampler, SamplingSettings, from_uint8, to_uint8
from arvbench.adapters.loading import load_sampler
from arvbench.harness.config import sampling_settings
from arvbench.harness.jobs import Event, EventListener, Job
from arvbench.harness.labels import labels_for
from arvbench.harness.quality.evaluation import Asked, Evaluation, evaluate
from arvbench.harness.quality.extractors.base import WeightFiles
from arvbench.harness.quality.images.base import Provenance
from arvbench.harness.quality.images.live import LiveSource
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.protocols.base import PROTOCOLS, Options
from arvbench.harness.quality.reference import reference_images
from arvbench.harness.quality.shards import FileImages, ModelImages, shared
from arvbench.harness.quality.stream import PassOver, folder_name
from arvbench.harness.recipes import find_reference, official_facts
from arvbench.results.schema import CaseConfig, Quality, QualityRequest

FEATURES_FOLDER = "features"
"""Below the run folder: features of a case whose quality is being measured."""


def measure_case_quality(job: Job, sampler: Sampler, settings: SamplingSettings, listener: EventListener) -> Evaluation:
    """Draw the images that the case's quality request asks for, and compute its numbers.

    Features of finished chunks are kept below the run folder until the numbers are there: a run that was killed goes on
    where it was.
    """
    request = job.case.quality
    assert request is not None
    source = live_source(sampler, settings, job.case)
    asked = asked_of(request)
    works = job.folder / FEATURES_FOLDER / folder_name(f"{source.key} {request.model_dump_json()}")

    def share(images: FileImages | ModelImages) -> PassOver:
        return shared(images, workers=request.workers, weight_files=job.weight_files, device=sampler.device)

    evaluation = evaluate(
        source,
        asked,
        weight_files=job.weight_files,
        device=sampler.device,
        works=works,
        pass_over=share(ModelImages(case=job.case)),
        reference_pass=share(FileImages(path=Path(asked.reference))) if asked.reference else None,
        recipe=official_facts(sampler.spec.name),
        listener=lambda event: listener(_renamed(event)),
    )
    reconstructed = reconstruction_quality(sampler, request, settings, job.case.batch, job.weight_files)
    shutil.rmtree(works, ignore_errors=True)
    return replace(evaluation, numbers=evaluation.numbers + reconstructed)


def _renamed(event: Event) -> Event:
    """A phase of the evaluation as one of the case; a note would be printed as a line of its own."""
    return event.model_copy(update={"phase": f"quality: {event.note or event.phase}", "note": ""})


def asked_of(request: QualityRequest) -> Asked:
    """The request of a case, as the evaluation takes it."""
    return Asked(
        protocols=request.protocols,
        reference=find_reference(request.reference),
        metrics=request.metrics,
        options=Options(bootstrap=request.bootstrap, seed=request.seed),
    )


def load_live_source(case: CaseConfig) -> LiveSource:
    """Load a case's model, and return the images of its quality request as a source."""
    sampler = load_sampler(
        case.model,
        weights=case.weights,
        device=case.device,
        dtype=getattr(torch, case.dtype),
        backend=case.backend,
    )
    return live_source(sampler, sampling_settings(sampler.spec, case.settings), case)


def live_source(sampler: Sampler, settings: SamplingSettings, case: CaseConfig) -> LiveSource:
    """Images of the case's quality request, drawn when they are read."""
    request = case.quality
    assert request is not None
    return LiveSource(
        sampler,
        settings,
        labels=labels_for(request.labels, request.images, sampler.spec.num_classes, seed=request.seed),
        label_scheme=request.labels,
        run_seed=request.seed,
        batch=case.batch,
        cache_policy=case.cache,
        resize=request.resize,
    )


def reconstruction_quality(
    sampler: Sampler,
    request: QualityRequest,
    settings: SamplingSettings,
    batch: int,
    weight_files: WeightFiles | None = None,
) -> tuple[Quality, ...]:
    """FID of the tokenizer alone: the reference's own images, encoded and decoded, against the reference.

    No sampler on this tokenizer can be expected below it. As many images as are generated, spread over the data set, or
    all of a smaller one: the bias of FID depends on their number. Empty unless FID was asked for on a named data set of
    the model's size.
    """
    images_N3HW = reference_images(request.reference)
    protocols = tuple(name for name in request.protocols if "fid" in PROTOCOLS[name].metrics)
    wanted = not request.metrics or "fid" in request.metrics
    if images_N3HW is None or not wanted or not protocols or images_N3HW.shape[2] != sampler.spec.image_px:
        return ()
    if request.images < len(images_N3HW):
        images_N3HW = images_N3HW[torch.linspace(0, len(images_N3HW) - 1, request.images).long()]
    restored = [
        to_uint8(sampler.decode(sampler.encode(from_uint8(part.to(sampler.device)))), settings.uint8_rule).cpu()
        for part in images_N3HW.split(batch)
    ]
    source = TensorSource(
        torch.cat(restored),
        name="tokenizer reconstructions",
        provenance=Provenance(labels="data set", uint8_rule=settings.uint8_rule, sampling="tokenizer reconstruction"),
    )
    asked = replace(asked_of(request), protocols=protocols, metrics=("fid",))
    numbers = evaluate(source, asked, weight_files=weight_files, device=sampler.device).numbers
    return tuple(number.model_copy(update={"metric": "reconstruction-fid"}) for number in numbers)
