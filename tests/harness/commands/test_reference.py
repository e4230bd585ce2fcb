"""`arvbench reference make`: one command from images to a file of reference statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from arvbench.harness import cli
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.metrics.moments import moments_of
from arvbench.harness.quality.reference import load_reference

IMAGES = load_digits_rgb().images_N3HW[:30]
PROTOCOL = ["--protocol", "digits-cnn"]


@pytest.fixture
def folder(tmp_path):
    for number, image_3HW in enumerate(IMAGES):
        path = tmp_path / "images" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image_3HW.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "images"


def make(*arguments) -> int:
    return cli.main(["reference", "make", *map(str, arguments)])


def test_the_group_and_the_verb_have_help_with_examples(capsys):
    for arguments in (["reference", "--help"], ["reference", "make", "--help"]):
        assert cli.main(arguments) == 0
        out = capsys.readouterr().out
        assert "Examples:" in out and "arvbench reference make" in out


def test_a_folder_becomes_a_file_that_evaluation_reads(folder, tmp_path, capsys):
    out = tmp_path / "made" / "ref.npz"
    assert make(folder, "--out", out, *PROTOCOL, "--keep-images", 10, "--seed", 3, "--use", "gFID") == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}: statistics of 30 images, 10 of them kept" in printed.replace("\n", "")
    extractor = load_extractor("digits-cnn")
    reference = load_reference(str(out), [(extractor, {"64": "features"})])
    assert (reference.images, reference.statistics_images, reference.use, reference.origin) == (10, 30, "gFID", "made")
    expected = moments_of([extractor.extract(IMAGES, ["64"])["64"]])
    torch.testing.assert_close(reference.data["digits-cnn"].moments("64").cov_DD, expected.cov_DD, rtol=1e-9, atol=1e-9)
    with np.load(out, allow_pickle=False) as stored:
        assert stored["arr_0"].shape == (10, 32, 32, 3) and stored["arr_0"].dtype == np.uint8


def test_the_record_is_printed_as_json(folder, tmp_path, capsys):
    assert make(folder, "--out", tmp_path / "ref.npz", *PROTOCOL, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["path"] == str(tmp_path / "ref.npz") and len(record["sha256"]) == 64
    assert (record["images"], record["kept"], record["image_shape"]) == (30, 30, [32, 32])
    assert record["protocols"] == ["digits-cnn"] and record["use"] == ""
    assert record["extractors"]["digits-cnn"]["layers"] == {"64": 64}
    assert record["versions"].keys() >= {"arvbench", "torch", "numpy", "pillow"}


def test_the_digits_and_a_resize_have_names(tmp_path, capsys):
    out = tmp_path / "ref.npz"
    assert make("digits", "--out", out, *PROTOCOL, "--keep-images", 0, "--resize", "pil-bicubic:32", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["images"], record["kept"]) == (1797, 0)
    extractor = load_extractor("digits-cnn")
    written = load_reference(str(out), [(extractor, {"64": "moments"})]).data["digits-cnn"].moments("64").cov_DD
    computed = extractor.extract(load_digits_rgb().images_N3HW)["64"].double().T.cov()
    torch.testing.assert_close(written, computed, rtol=1e-9, atol=1e-9)
    # The package's own statistics were computed on another machine, whose convolutions may round otherwise.
    stored = load_reference("digits", [(extractor, {"64": "features"})]).data["digits-cnn"].moments("64").cov_DD
    torch.testing.assert_close(written, stored, rtol=1e-4, atol=1e-6)


def test_a_work_folder_keeps_features(folder, tmp_path, capsys):
    for name in ("a", "b"):
        assert make(folder, "--out", tmp_path / f"{name}.npz", *PROTOCOL, "--work", tmp_path / "work") == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert list((tmp_path / "work").glob("chunk-*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "{tmp}/r.npz", *PROTOCOL], "there is nothing at nowhere"),
        (["{folder}", "--out", "{tmp}/r.npy", *PROTOCOL], "the reference is written as an .npz"),
        (["{folder}", "--out", "{tmp}/images/000.png/r.npz", *PROTOCOL], "cannot write to"),
        (["{folder}", "--out", "{tmp}/r.npz", "--protocol", "digits-cn"], "no protocol 'digits-cn'; did you mean"),
        (["{folder}", "--out", "{tmp}/r.npz", *PROTOCOL, "--resize", "nearest:8"], "no resize 'nearest:8'"),
        (["{folder}", "--out", "{tmp}/r.npz", *PROTOCOL, "--resize", "pil-bicubic:8"], "takes 32 x 32 images"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, capsys, arguments, message):
    assert make(*(text.format(tmp=tmp_path, folder=folder) for text in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.strip().count("\n") == 0
    assert captured.out == ""
    assert not (tmp_path / "r.npz").exists()


def test_missing_weights_are_named_with_their_address(folder, tmp_path, capsys, monkeypatch):
    for variable in ("ARVBENCH_INCEPTION", "ARVBENCH_DOWNLOAD"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    assert make(folder, "--out", tmp_path / "r.npz") == 2
    error = capsys.readouterr().err
    assert "weights-inception-2015-12-05-6726825d.pth" in error and "--inception-weights" in error


def test_a_file_that_exists_is_written_over_only_by_force(folder, tmp_path, capsys):
    out = tmp_path / "ref.npz"
    out.write_text("precious")
    assert make(folder, "--out", out, *PROTOCOL) == 2
    assert "ref.npz already exists" in capsys.readouterr().err and out.read_text() == "precious"
    assert make(folder, "--out", out, *PROTOCOL, "--force") == 0
    assert out.read_bytes()[:2] == b"PK"


@pytest.mark.parametrize("arguments", [["--keep-images", "-1"], ["--use", "FID"]])
def test_malformed_options_are_exit_code_2(folder, tmp_path, arguments, capsys):
    assert make(folder, "--out", tmp_path / "r.npz", *PROTOCOL, *arguments) == 2
