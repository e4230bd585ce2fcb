"""`arvbench sample` as a user meets it: files that other programs read, and one line for every error."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from arvbench.adapters.loading import load_sampler
from arvbench.harness.cli import main
from arvbench.harness.data.labels import labels_for
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.images.live import LiveSource, SeededLabels
from arvbench.harness.quality.images.open import open_images


def sample(out: Path, *arguments: str, images: int = 12, model: str = "demo/var") -> int:
    return main(["sample", model, "--out", str(out), "--images", str(images), *arguments])


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x"])
def test_the_drawn_images_are_written(tmp_path, capsys, name):
    assert sample(tmp_path / name, "--labels", "uniform", "--seed", "5", "--batch", "8", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    labels = labels_for("uniform", 12, 10, seed=5)
    sampler = load_sampler("demo/var", weights="demo", backend="optimized")
    expected = LiveSource(
        sampler, sampler.spec.settings, SeededLabels(labels=labels, run_seed=5, scheme="uniform"), batch=8
    )
    written = open_images(tmp_path / name)
    assert torch.equal(written.read(0, 12), expected.read(0, 12))
    assert written.labels_N.tolist() == labels and written.seeds_N.tolist() == list(range(12))
    assert written.provenance == expected.provenance
    assert summary["images_sha256"] == images_sha256(written.read(0, 12))
    assert (summary["images"], summary["shape"], summary["labels"], summary["seed"]) == (12, [32, 32], "uniform", 5)
    assert summary["settings_deviations"] == {} and summary["weights_sha256"].keys() == {"var.safetensors"}


def test_the_npz_has_the_form_of_the_adm_evaluator(tmp_path, capsys):
    assert sample(tmp_path / "x.npz", images=20) == 0
    assert "wrote 20 images of 32 x 32" in capsys.readouterr().out
    with np.load(tmp_path / "x.npz") as stored:
        assert stored["arr_0"].shape == (20, 32, 32, 3) and stored["arr_0"].dtype == np.uint8
        assert stored["labels"].tolist() == [label for label in range(10) for _ in range(2)]
    assert open_images(tmp_path / "x.npz").provenance.labels == "balanced"


def test_settings_and_resize_are_used_and_recorded(tmp_path, capsys):
    plain, changed = tmp_path / "plain.npz", tmp_path / "changed.npz"
    assert sample(plain) == 0
    options = ["--set", "settings.cfg=4", "--set", "settings.uint8_rule=127.5x+128", "--resize", "bicubic:16", "--json"]
    capsys.readouterr()
    assert sample(changed, *options) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["settings_deviations"] == {"cfg": 4.0, "uint8_rule": "127.5x+128"}
    provenance = open_images(changed).provenance
    assert (provenance.uint8_rule, provenance.resize) == ("127.5x+128", "bicubic:16")
    assert '"cfg":4' in provenance.model
    assert open_images(changed).shape == (16, 16) and open_images(plain).provenance.resize == "none"


def test_a_family_with_another_rule_says_so(tmp_path):
    assert sample(tmp_path / "x.npz", model="demo/nar", images=2) == 0
    assert open_images(tmp_path / "x.npz").provenance.uint8_rule == "127.5x+128"


def test_random_weights_are_called_noise(tmp_path, capsys):
    assert sample(tmp_path / "x.npz", "--weights", "random:0", images=2) == 0
    assert "random weights draw noise" in capsys.readouterr().err


def test_nothing_is_overwritten_by_default(tmp_path, capsys):
    out = tmp_path / "x.npz"
    assert sample(out, images=2) == 0
    before = out.read_bytes()
    assert sample(out, "--seed", "1", images=2) == 2
    assert "already exists; choose another name, or --force" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert sample(out, "--seed", "1", "--force", images=2) == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "ballanced"], "no label scheme 'ballanced'; did you mean 'balanced'"),
        (["--resize", "bicubic"], "no resize 'bicubic'"),
        (["--set", "cfg=2"], "write settings.KEY=VALUE"),
        (["--set", "settings.cgf=2"], "did you mean 'cfg'"),
        (["--set", "settings.top_k=100000"], "top_k 100000 is larger"),
        (["--set", "settings.uint8_rule=floor"], "uint8_rule"),
        (["--weights", "/nope"], "/nope"),
        (["--cache", "bogus"], "no cache policy 'bogus'"),
        (["--device", "cdua"], "no device 'cdua'"),
        (["--out", "x.zip"], "written as .npz or .safetensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert sample(tmp_path / "x.npz", *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("error: ") and len(printed.err.splitlines()) == 1
    assert printed.out == "" and list(tmp_path.iterdir()) == []


def test_a_model_without_demo_weights_names_the_option(tmp_path, capsys):
    assert sample(tmp_path / "x.npz", model="var-d16") == 2
    assert "var-d16 needs --weights" in capsys.readouterr().err
    assert sample(tmp_path / "x.npz", model="demo/vra") == 2
    assert "did you mean 'demo/var'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_exit_code_3(tmp_path, capsys):
    assert sample(tmp_path / "x.npz", "--device", "cuda") == 3
    assert "--device cpu" in capsys.readouterr().err


def test_ctrl_c_leaves_no_partial_file(programs, tmp_path):
    command = ["-m", "arvbench", "sample", "demo/var", "--images", "1000000", "--out", "x.npz"]
    process = programs.start(*command, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".x.npz.part").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "interrupted" in printed
    assert list(tmp_path.iterdir()) == []
