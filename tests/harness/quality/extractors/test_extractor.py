"""The table of extractors: cheap to list, every entry keeps the same promises, the caller's settings come back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import arvbench
from arvbench.errors import CheckpointError, UnknownName, UserError
from arvbench.harness.measure import perceptual
from arvbench.harness.quality.extractors import EXTRACTORS, Extractor, load_extractor
from arvbench.harness.quality.extractors.digits_cnn import load_classifier
from arvbench.harness.quality.extractors.extractor import full_precision, weights_of
from arvbench.harness.quality.extractors.weights import WEIGHTS

DIGITS = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def run_python(code: str) -> str:
    environment = {"PYTHONPATH": str(Path(arvbench.__path__[0]).parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listing_the_table_imports_no_library_of_networks():
    names = run_python(
        "import sys; from arvbench.harness.quality.extractors import EXTRACTORS; print(*sorted(EXTRACTORS)); "
        "assert not {'torch', 'torch_fidelity', 'torchvision', 'sklearn', 'cleanfid', 'open_clip'} & set(sys.modules)"
    )
    assert names.split() == sorted(EXTRACTORS)


def test_every_extractor_names_its_weights_and_all_published_ones_are_used():
    of_drift = {perceptual.NAME}
    assert {weights_of(name) for name in EXTRACTORS} - {None} | of_drift == WEIGHTS.keys()


def test_our_own_extractors_import_no_metric_library(programs):
    """torchvision alone takes seconds."""
    done = programs.run(
        "-c",
        "import sys; from arvbench.harness.quality.extractors import load_extractor, adm_inception; "
        "load_extractor('digits-cnn'); assert not {'torch_fidelity', 'torchvision', 'cleanfid'} & set(sys.modules)",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", list(EXTRACTORS))
def test_every_entry_can_be_loaded_by_name(name):
    assert callable(EXTRACTORS[name])


def test_unknown_name_is_refused_with_near_misses():
    with pytest.raises(UnknownName, match="adm-inception"):
        load_extractor("adm-incepton")


def test_digits_cnn_is_the_classifier_of_this_package():
    extractor = load_extractor("digits-cnn")
    out = extractor.extract(DIGITS)
    with torch.no_grad():
        features, logits = load_classifier()(DIGITS)
    torch.testing.assert_close(out["64"], features)
    torch.testing.assert_close(out["logits"], logits)
    assert extractor.layers == {layer: features.shape[1] for layer, features in out.items()}
    assert (extractor.image_px, extractor.classes, extractor.note) == (32, 10, "")
    assert extractor.sha256 == load_extractor("digits-cnn").sha256


def a_network(network, **settings) -> Extractor:
    defaults = {"name": "test", "layers": {"mean": 3}, "sha256": "0" * 64, "preprocessing": "none"}
    return Extractor(network=network, device=torch.device("cpu"), **defaults | settings)


def means(images):
    return {"mean": images.double().mean(dim=(2, 3))}


def test_images_pass_in_order_in_batches_and_come_out_as_fp32():
    seen = []

    def network(images):
        seen.append(len(images))
        return means(images)

    out = a_network(network, batch=128).extract(DIGITS)
    assert seen == [128, 128, 44]
    assert out["mean"].dtype == torch.float32
    assert torch.equal(out["mean"], DIGITS.double().mean(dim=(2, 3)).float())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (DIGITS.float(), r"uint8 images \(N, 3, H, W\), not torch\.float32"),
        (DIGITS[:, :1], r"not torch\.uint8 \(300, 1, 32, 32\)"),
        (DIGITS[0], r"not torch\.uint8 \(3, 32, 32\)"),
        (DIGITS[..., :16], "takes 32 x 32 images, these are 32 x 16"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        a_network(means, image_px=32).extract(images)


def test_features_that_are_not_finite_name_the_first_image():
    def network(images):
        out = images.float().mean(dim=(2, 3))
        out[2] = float("nan")
        return {"mean": out}

    with pytest.raises(CheckpointError, match=r"for 2 of 8 images \(first: image 2\); its weights \(sha256 0000"):
        a_network(network, batch=4).extract(DIGITS[:8])


def test_precision_is_full_inside_and_the_callers_outside():
    seen = {}

    def network(images):
        seen.update(
            matmul=torch.get_float32_matmul_precision(),
            autocast=torch.is_autocast_enabled("cpu"),
            product=(torch.ones(2, 2) @ torch.ones(2, 2)).dtype,
            cudnn=torch.backends.cudnn.allow_tf32,
            grad=torch.is_grad_enabled(),
        )
        return means(images)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            a_network(network).extract(DIGITS[:1])
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {
        "matmul": "highest",
        "autocast": False,
        "product": torch.float32,
        "cudnn": False,
        "grad": False,
    }


def test_cudnn_stays_on_and_newer_settings_of_precision_are_put_back():
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has no settings of precision by operation")
    knobs = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.conv, backends.mkldnn.matmul]
    before = [knob.fp32_precision for knob in knobs]
    seen = []
    try:
        for knob, value in zip(knobs, ("tf32", "tf32", "bf16", "bf16"), strict=True):
            knob.fp32_precision = value
        asked = [knob.fp32_precision for knob in knobs]
        with full_precision(torch.device("cpu")):
            seen = [knob.fp32_precision for knob in knobs]
            assert backends.cudnn.enabled, "without cuDNN convolutions on a GPU are slow"
            assert backends.cudnn.deterministic and not backends.cudnn.benchmark
        assert [knob.fp32_precision for knob in knobs] == asked
    finally:
        for knob, value in zip(knobs, before, strict=True):
            knob.fp32_precision = value
    assert set(seen) <= {"ieee", "none"}


def test_settings_come_back_after_an_error():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pytest.raises(RuntimeError), full_precision(torch.device("cpu")):
        raise RuntimeError
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
