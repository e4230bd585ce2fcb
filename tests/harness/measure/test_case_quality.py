"""Quality of a case: its model as a source of images, resumed where it was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from arvbench.adapters.loading import load_sampler
from arvbench.harness.jobs import FEATURES_FOLDER, Event, Job
from arvbench.harness.measure.case_quality import evaluation_request, measure_case_quality
from arvbench.harness.quality.images.live import live_source
from arvbench.results.schema import CaseConfig

IMAGES = 530


def job(folder, **changes) -> Job:
    quality = {
        "protocols": ["digits-cnn"],
        "reference": "digits",
        "images": IMAGES,
        "metrics": ["fid", "recall", "label-accuracy"],
        "bootstrap": 3,
    }
    case = CaseConfig(model="demo/detailflow", weights="demo", batch=64, threads=1, quality=quality | changes)
    return Job(record_id="r1", case=case, folder=folder)


@pytest.fixture
def sampler():
    """demo/detailflow that remembers how many images it drew."""
    loaded = load_sampler("demo/detailflow", weights="demo", backend="optimized")
    real, loaded.drawn = loaded.sample, 0

    def sample(labels, *arguments, **options):
        loaded.drawn += len(labels)
        return real(labels, *arguments, **options)

    loaded.sample = sample
    return loaded


def test_an_interrupted_case_draws_only_the_missing_images_and_gets_the_same_numbers(sampler, tmp_path):
    settings = sampler.spec.settings
    whole = measure_case_quality(job(tmp_path / "a"), sampler, settings, lambda _event: None)
    assert sampler.drawn == IMAGES

    def interrupt(event: Event) -> None:
        if event.phase == "quality: samples" and event.done >= 256:
            raise KeyboardInterrupt

    sampler.drawn = 0
    with pytest.raises(KeyboardInterrupt):
        measure_case_quality(job(tmp_path / "b"), sampler, settings, interrupt)
    assert sampler.drawn == 256
    assert list((tmp_path / "b" / FEATURES_FOLDER).rglob("chunk-000000.safetensors"))
    events: list[Event] = []
    again = measure_case_quality(job(tmp_path / "b"), sampler, settings, events.append)
    assert sampler.drawn == IMAGES
    assert again == whole
    (features,) = (tmp_path / "b" / FEATURES_FOLDER).iterdir()
    assert [mark.name for mark in features.glob("measured-*")] == ["measured-r1"], (
        "they stay until the record is stored"
    )
    assert not any(event.note for event in events), "a note would be printed as a line of its own"


def test_the_request_decides_labels_seeds_resize_and_protocols(sampler):
    request = {"labels": "uniform", "seed": 7, "resize": "bicubic:16", "bootstrap": 0}
    case = job(Path(), **request).case
    source = live_source(sampler, sampler.spec.settings, case)
    assert (source.count, source.shape) == (IMAGES, (16, 16))
    assert source.provenance.labels == "uniform" and source.provenance.resize == "bicubic:16"
    counts = source.labels_N.bincount(minlength=10)
    assert counts.min() != counts.max(), "drawn, not dealt"
    assert (evaluation_request(case.quality).options.bootstrap, evaluation_request(case.quality).options.seed) == (0, 7)


def test_numbers_of_other_label_schemes_have_other_ids(sampler, tmp_path):
    ids = {
        scheme: measure_case_quality(
            job(tmp_path, labels=scheme, images=64, metrics=["label-accuracy"]),
            sampler,
            sampler.spec.settings,
            lambda _event: None,
        )
        .numbers[0]
        .protocol_id
        for scheme in ("balanced", "balanced-shuffled", "uniform")
    }
    assert len(set(ids.values())) == 3
