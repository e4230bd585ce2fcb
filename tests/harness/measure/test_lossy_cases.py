"""Records of lossy cases: what is lossy, their work, and their drift from an exact case."""

from __future__ import annotations

from pathlib import Path

import pytest

from arvbench.adapters.exactness import LOSSY_DTYPES, lossy_parts
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.methods.request import spec_of
from arvbench.harness.jobs import Job
from arvbench.harness.measure import drift
from arvbench.harness.measure.case import measure_case
from arvbench.results.schema import CaseConfig


def outcome_of(**changes):
    config = {
        "model": "demo/var",
        "weights": "random:0",
        "threads": 1,
        "repeats": 1,
        "max_warmup": 1,
        "drift_images": 2,
    }
    case = CaseConfig(**config | {"batch": 2} | changes)
    return measure_case(Job(record_id="0", case=case, folder=Path()), lambda event: None).outcome


def plain_parameters():
    return sum(p.numel() for p in load_sampler("demo/var", weights="random:0").transformer.parameters())


def test_an_exact_case_has_no_drift():
    outcome = outcome_of()
    assert outcome.setup.lossy == ()
    assert outcome.drift is None
    assert outcome.work.forward_passes == 6


def test_a_method_drifts_from_the_plain_model():
    outcome = outcome_of(method="skip:2", backend="reference")
    assert outcome.setup.lossy == ("method skip",)
    assert outcome.correctness.judge == "reference backend with the same method"
    assert outcome.drift.against == "static, without method skip"
    # The scales that run are those of the plain model; what is left out shows in the images alone.
    assert len(outcome.drift.steps) == 4
    assert outcome.drift.free_agreement.mean == 1
    assert outcome.drift.identical_images == 0
    assert outcome.work.forward_passes == 4


def test_code_is_compared_at_its_own_temperatures():
    settings = {"temperatures": [1.1] * 3 + [1.0] * 3}
    outcome = outcome_of(method="code:3,refiner=demo/var", settings=settings)
    assert outcome.drift.temperatures == (1.1, 1.1, 1.1, 1.0, 1.0, 1.0)
    # The refiner is the drafter here: all tokens are those of the plain model under equal settings.
    assert outcome.drift.free_agreement.mean == 1
    assert outcome.setup.transformer_parameters == 2 * plain_parameters()


def test_a_half_precision_drifts_from_float32():
    outcome = outcome_of(dtype="bfloat16", batch=1)
    assert outcome.setup.lossy == ("dtype bfloat16",)
    assert outcome.drift.against == "static, float32"
    assert outcome.drift.kl.mean > 0


@pytest.mark.parametrize("model", ["demo/xar", "demo/flowar"])
def test_latents_of_a_half_precision_drift_from_float32(model):
    found = outcome_of(model=model, dtype="bfloat16", settings={"num_steps": 4}).drift
    assert found.against == "static, float32" and found.forced_agreement is found.kl is None
    assert 0 < found.free_distance.mean < 0.2 and 0 < found.forced_distance.mean < 0.2
    assert len(found.steps) > 1 and all(step.forced_distance > 0 for step in found.steps)
    # Nothing comes before the first step: both paths are one there.
    assert found.steps[0].forced_distance == found.steps[0].free_distance
    assert 0 < found.ssim.mean < 1 and found.psnr_db.mean > 15 and found.identical_images == 0


def test_without_memory_for_the_exact_model_the_record_says_so(monkeypatch):
    def no_room(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("arvbench.harness.measure.case.measure_drift", no_room)
    outcome = outcome_of(method="skip:5")
    assert outcome.status == "ok"
    assert outcome.drift is None
    assert outcome.drift_note.startswith("out of memory")


@pytest.mark.parametrize(
    ("method", "cache", "dtype", "parts"),
    [
        (None, None, "float32", ()),
        (None, "grow", "float32", ()),
        ("skip:1", "static", "float16", ("method skip", "dtype float16")),
        (None, "window:2", "bfloat16", ("cache window:2", "dtype bfloat16")),
    ],
)
def test_policies_methods_and_dtypes_declare_what_they_are(method, cache, dtype, parts):
    assert lossy_parts(spec_of("demo/var", method), cache=cache, dtype=dtype) == parts


def test_every_dtype_of_a_case_is_declared():
    assert set(LOSSY_DTYPES) == set(CaseConfig.model_fields["dtype"].annotation.__args__)


def test_a_family_without_the_static_cache_is_compared_with_its_own():
    sampler = load_sampler("demo/mvar", weights="random:0")
    assert drift.exact_policy(sampler) == sampler.default_cache
    assert drift.exact_policy(load_sampler("demo/hmar", weights="random:0")) in ("static", "none")


def test_a_lossy_case_that_asks_for_no_drift_says_so():
    outcome = outcome_of(method="skip:2", drift_images=0)
    assert outcome.drift is None and outcome.drift_note == "drift_images is 0: none was asked for"
