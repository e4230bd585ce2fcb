"""A whole case in this process, and the parts of its outcome."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from records import GPU
from safetensors.torch import save_file

from arvbench.adapters import MODELS, PerImageNoise
from arvbench.harness.jobs import Event, Job, Part
from arvbench.harness.machine.nvml import ReplayGpuProbe
from arvbench.harness.measure.case import measure_case
from arvbench.harness.measure.sample_sheet import draw_sample_sheet, images_to_show
from arvbench.harness.quality.images.live import LiveSource, SeededLabels, load_case_sampler, load_live_source
from arvbench.results.schema import CaseConfig, Gpu, Incorrect, Measured, Status

QUALITY = {"protocols": ["digits-cnn"], "reference": "digits", "images": 20}


def job(folder, **changes) -> Job:
    fields = {"model": "demo/var", "weights": "random:0", "batch": 3, "repeats": 2, "max_warmup": 2}
    return Job(record_id="r1", case=CaseConfig(**(fields | changes)), folder=folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder, events = tmp_path_factory.mktemp("run"), []
    request = job(folder, backend="optimized", settings={"cfg": 3.0}, sample_sheet=2, quality=QUALITY)
    return measure_case(request, events.append).outcome, events, folder


def test_all_is_measured_in_an_order_that_can_be_defended(measured):
    outcome, events, _ = measured
    assert isinstance(outcome, Measured)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == ["load", "correctness", "memory", "warm-up", "timing", "quality", "sample sheet"]
    assert [t.scope for t in outcome.timings][-3:] == ["tokens", "decode", "images"]
    assert all(len(t.samples_ns) == 2 and min(t.samples_ns) > 0 for t in outcome.timings)
    assert len(outcome.timings) == len(outcome.setup.plan) + 3
    assert len(outcome.cache) == len(outcome.setup.plan)


def test_setup_describes_the_model_that_ran(measured):
    setup = measured[0].setup
    assert setup.cache_policy == "static"
    assert setup.weights_random and not setup.weights_sha256
    assert setup.settings_deviations == {"cfg": 3.0}
    assert setup.settings["cfg"] == 3.0
    assert "flash_attention_for_cpu" in setup.attention
    assert setup.threads == 1


def test_a_record_names_packed_weights_and_counts_their_bytes(tmp_path, monkeypatch):
    request = job(tmp_path, model="demo/nar", backend="optimized", batch=1, repeats=1, max_warmup=1)
    plain = measure_case(request, lambda event: None).outcome
    monkeypatch.setattr("arvbench.adapters.common.linear.SMALLEST", 0)
    packed = measure_case(request, lambda event: None).outcome
    assert packed.setup.kernels == plain.setup.kernels | {"linear": "onednn"}
    assert packed.setup.transformer_parameters == plain.setup.transformer_parameters
    assert plain.memory.weights_bytes < packed.memory.weights_bytes < 1.5 * plain.memory.weights_bytes
    assert plain.correctness.max_abs_diff == 0 < packed.correctness.max_abs_diff


@pytest.mark.parametrize(("backend", "named"), [("optimized", True), ("reference", False)])
def test_a_record_names_products_with_a_gelu(tmp_path, backend, named):
    request = job(tmp_path, model="demo/var", backend=backend, batch=1, repeats=1, max_warmup=1)
    kernels = measure_case(request, lambda event: None).outcome.setup.kernels
    assert ("linear_gelu" in kernels) == named


def test_random_weights_have_no_quality_and_a_note_says_so(measured):
    outcome, events, _ = measured
    assert outcome.quality == ()
    assert Event(phase="quality", note="random weights have no quality: none is reported") in events


def test_quality_is_computed_on_images_of_every_class_alike(tmp_path, reference):
    tensors = {
        f"{part}.{key}": value.clone()
        for part, module in reference.modules().items()
        for key, value in module.state_dict().items()
    }
    save_file(tensors, tmp_path / "bundle.safetensors")
    events: list[Event] = []
    request = job(tmp_path, weights=str(tmp_path / "bundle.safetensors"), quality=QUALITY)
    outcome = measure_case(request, events.append).outcome
    quality = {number.metric: number for number in outcome.quality}
    # The tokenizer alone is measured on as many scans of the reference as there are generated images.
    assert quality.pop("reconstruction-fid").n_samples == 20
    assert quality.keys() == {
        *("fid", "isc", "kid", "precision", "recall", "density", "coverage", "label-accuracy"),
    }
    assert {f.code for f in outcome.findings} >= {"left-out", "few-samples"}, "FID at infinity and by class need more"
    assert {number.n_samples for number in quality.values()} == {20}
    # A classifier that sees one class in all images, such as an untrained model's, is right on a tenth of the labels.
    assert 0 <= quality["label-accuracy"].value <= 0.5
    assert Event(phase="quality: samples", done=20, total=20) in events
    # The features stay until the runner has stored the record.
    assert len(list((tmp_path / "features").iterdir())) == 1
    assert not outcome.setup.weights_random and "bundle.safetensors" in outcome.setup.weights_sha256


def test_the_sample_sheet_has_a_row_per_class(measured):
    outcome, _, folder = measured
    sheet, path = outcome.sample_sheet, folder / outcome.sample_sheet.path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sheet.sha256
    assert Image.open(path).size == (2 * 32, 10 * 32)
    assert (sheet.classes, sheet.columns, sheet.image_px) == (tuple(range(10)), 2, 32)


def sheet_images(outcome, folder):
    """The images of a sheet (rows, columns, H, W, 3)."""
    pixels = np.asarray(Image.open(folder / outcome.sample_sheet.path))
    return pixels.reshape(10, 32, -1, 32, 3).swapaxes(1, 2)


@pytest.mark.parametrize("split", [False, True])
def test_the_sample_sheet_shows_the_first_quality_images_of_every_class(tmp_path, monkeypatch, split):
    monkeypatch.setattr(LiveSource, "draw", lambda source, numbers: pytest.fail(f"{numbers} are drawn again"))
    request = job(tmp_path, weights="demo", batch=8, sample_sheet=2, quality=QUALITY | {"images": 25})
    parts = [Part.SPEED, Part.QUALITY] if split else [Part.WHOLE]
    result = None
    for part in parts:
        result = measure_case(request.model_copy(update={"part": part, "speed": result}), lambda event: None)
    source = load_live_source(request.case)
    images_NHW3 = source.read(0, 25).permute(0, 2, 3, 1)
    for row, shown in enumerate(sheet_images(result.outcome, tmp_path)):
        of_class = [number for number, label in enumerate(source.labels_N.tolist()) if label == row]
        assert np.array_equal(shown, images_NHW3[of_class[:2]].numpy())


@pytest.mark.parametrize("quality", [None, QUALITY | {"images": 15}, QUALITY | {"resize": "bicubic:16"}], ids=str)
def test_a_sheet_has_images_of_its_own_where_the_request_has_too_few_or_resizes_them(quality):
    case = job(Path(), sample_sheet=2, quality=quality).case
    assert images_to_show(case, 10) == {}


def test_images_that_no_one_has_read_are_drawn_for_the_sheet(tmp_path):
    request = job(tmp_path, weights="demo", batch=8, sample_sheet=2, quality=QUALITY)
    sampler, settings = load_case_sampler(request.case)
    shown = images_to_show(request.case, 10)
    source = load_live_source(request.case)
    shown[0] = 255 - source.read(0, 1)[0]
    sheet = draw_sample_sheet(request, sampler, settings, lambda event: None, shown)
    pixels = np.asarray(Image.open(tmp_path / sheet.path))
    assert np.array_equal(pixels[:32, :32], shown[0].permute(1, 2, 0))
    expected = source.read(19, 20)[0].permute(1, 2, 0).int().numpy()
    assert abs(pixels[-32:, -32:].astype(int) - expected).max() <= 1  # another batch may round otherwise


def test_an_incorrect_case_has_no_times(tmp_path):
    events: list[Event] = []
    with MODELS.scoped("forgetful", "broken_models:FORGETFUL"):
        result = measure_case(job(tmp_path, model="forgetful", backend="reference"), events.append)
    outcome = result.outcome
    assert isinstance(outcome, Incorrect) and outcome.status is Status.INCORRECT
    assert not outcome.correctness.passed
    assert [event.phase for event in events] == ["load", "correctness"]
    assert result.environment is not None


def test_the_gpu_is_read_once_right_after_the_timed_calls(tmp_path):
    events: list[Event] = []
    reading = GPU.model_copy(update={"throttle_reasons": ("software power cap",)})
    recording = tmp_path / "gpu.json"
    recording.write_text(f"[{reading.model_dump_json()}]")
    read_after: list[Event] = []

    class Probe(ReplayGpuProbe):
        def read(self) -> Gpu:
            read_after.append(events[-1])
            return super().read()

    result = measure_case(job(tmp_path, sample_sheet=1), events.append, Probe(recording))
    assert read_after == [Event(phase="timing", done=2, total=2)]
    assert result.environment.gpu == reading


def test_an_image_does_not_depend_on_the_batch_it_was_made_in(optimized):
    labels = [0, 1, 2, 3, 4]
    settings = optimized.spec.settings
    whole, parts = (
        LiveSource(
            optimized, settings, SeededLabels(labels=labels, run_seed=5), batch=batch, cache_policy="static"
        ).read(0, 5)
        for batch in (5, 2)
    )
    alone = optimized.sample([3], settings, noise=PerImageNoise(5, [3])).images
    assert len(whole) == len(parts) == 5
    assert torch.equal(whole, parts)
    assert torch.equal(whole[3:4], alone)
