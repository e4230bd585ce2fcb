"""References that were not meant, or are the samples themselves, and files that are none: all are reported in words."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arvbench.errors import UserError
from arvbench.harness.cli import main
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.reference.load import load_reference

DIGITS = load_digits_rgb()
IMAGES = DIGITS.images_N3HW.permute(0, 2, 3, 1).numpy()
ON_DIGITS = ("--protocol", "digits-cnn")


def save(path: Path, images: np.ndarray) -> Path:
    np.savez(path, arr_0=images)
    return path


def findings(capsys, samples: Path, reference: object, metrics: str = "fid") -> tuple[set[str], str]:
    """Codes and text of the findings about an evaluation."""
    options = (*ON_DIGITS, "--metrics", metrics, "--bootstrap", "0", "--json")
    assert main(["eval", str(samples), "--reference", str(reference), *options]) == 0
    out, err = capsys.readouterr()
    return set(json.loads(out)[0]["findings"]), " ".join(err.split())


def test_samples_in_another_order_and_a_part_of_the_reference_are_found(tmp_path, capsys):
    reference = save(tmp_path / "ref.npz", IMAGES[:90])
    codes, text = findings(capsys, save(tmp_path / "turned.npz", IMAGES[:90][::-1]), reference)
    assert "samples-are-reference" in codes and "the samples are the very images of ref.npz" in text
    codes, text = findings(capsys, save(tmp_path / "part.npz", IMAGES[10:80]), reference)
    assert "samples-are-reference" in codes and "all 70 samples are images of ref.npz" in text
    codes, text = findings(capsys, save(tmp_path / "mixed.npz", IMAGES[60:160]), reference)
    assert "samples-are-reference" in codes and "30 of 100 samples are images of ref.npz" in text
    assert "samples-are-reference" not in findings(capsys, save(tmp_path / "others.npz", IMAGES[90:180]), reference)[0]


@pytest.mark.parametrize("keep", [0, 20, 100])
def test_statistics_made_of_the_samples_are_found_whatever_images_they_keep(tmp_path, capsys, keep):
    made, samples = tmp_path / "made.npz", save(tmp_path / "s.npz", IMAGES[:90])
    keeping = ("--keep-images", str(keep))
    assert main(["reference", "make", str(samples), "--out", str(made), *ON_DIGITS, *keeping]) == 0
    capsys.readouterr()
    if keep == 0:  # every metric of digits-cnn reads images: ask the reference itself
        assert len(load_reference(str(made), []).digests_MB) == 90
        return
    codes, text = findings(capsys, save(tmp_path / "turned.npz", IMAGES[:90][::-1]), made)
    assert "samples-are-reference" in codes and "the very images of made.npz" in text


def test_copies_in_a_reference_are_counted_and_the_values_stay_those_of_the_definition(tmp_path, capsys):
    reference = save(tmp_path / "ref.npz", np.concatenate([IMAGES[:30]] * 6 + [IMAGES[30:40]]))
    codes, text = findings(capsys, save(tmp_path / "s.npz", IMAGES[300:340]), reference, "density,coverage")
    assert "duplicate-reference-images" in codes
    assert "150 of 190 images of ref.npz are copies of an earlier one (first: image 30 of image 0)" in text


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (lambda x: (x / 255).astype(np.uint8), "all bytes are 0 or 1"),
        (lambda x: np.sign(x / 127.5 - 1).astype(np.int8).astype(np.uint8) * (x % 7 > 0), "all bytes are 0, 1 or 255"),
        (lambda x: x // 16, "no byte is larger than 15 of 255"),
        (lambda x: np.zeros_like(x), "every byte of every image is 0"),
        (lambda x: np.full_like(x, 128), "every byte of every image is 128"),
    ],
)
def test_bytes_that_are_no_picture_are_found_on_both_sides(tmp_path, capsys, convert, text):
    wrong = save(tmp_path / "wrong.npz", convert(IMAGES[:40]).astype(np.uint8))
    good = save(tmp_path / "good.npz", IMAGES[40:80])
    for samples, reference in ((wrong, good), (good, wrong)):
        codes, told = findings(capsys, samples, reference)
        assert "range-of-bytes" in codes and f"wrong.npz: {text}" in told


def test_a_name_that_shadows_a_folder_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    codes, text = findings(capsys, save(tmp_path / "s.npz", 255 - IMAGES[:40]), "digits")
    assert "reference-name" in codes and "not the folder digits of the working folder: write ./digits" in text
    main(["reference", "make", "digits", "--out", "r.npz", *ON_DIGITS, "--keep-images", "0"])
    assert "warning: 'digits' is the data set of that name" in capsys.readouterr().err


MEAN, COV = np.zeros(64), np.eye(64)


def write_other(path: Path) -> None:
    """Write what other tools write under such a name."""
    if path.suffix == ".npy":
        np.save(path, np.array({"mu": MEAN, "sigma": COV}, dtype=object))
    elif path.suffix in (".pt", ".pth"):
        torch.save({"mu": torch.zeros(64)}, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"mu": MEAN, "sigma": COV}))
    elif path.suffix == ".npz":
        named = {"positional": (MEAN, COV)}.get(path.stem)
        keys = {"short": {"m": MEAN, "s": COV}, "none": {}, "keras": {"mean": MEAN, "covariance": COV}}
        np.savez(path, *(named or ()), **keys.get(path.stem, {}))
    else:
        path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))


@pytest.mark.parametrize(
    "name",
    ["d.npy", "d.pkl", "d.pt", "d.pth", "d.mat", "d.h5", "d", "positional.npz", "short.npz", "none.npz", "keras.npz"],
)
def test_files_of_other_tools_are_refused_in_words_about_references(tmp_path, capsys, name):
    write_other(tmp_path / name)
    samples = save(tmp_path / "s.npz", IMAGES[:40])
    assert main(["eval", str(samples), "--reference", str(tmp_path / name), *ON_DIGITS]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"{name} is not a reference that can be read: it " in err
    assert "mu and sigma" in err and "numpy.savez(PATH, mu=mean, sigma=covariance)" in err
    assert "samples" not in err.split("is not a reference")[1]


NAMES = st.sampled_from(["mu", "sigma", "mu_s", "arr_0", "labels", "arvbench", "digests", "moments/x/y/mean", "m"])
ARRAYS = st.one_of(
    st.sampled_from([MEAN, COV, IMAGES[:3], np.array({}, dtype=object), np.full(3, np.nan), np.zeros((0, 3))]),
    st.binary(max_size=40).map(lambda content: np.frombuffer(content, np.uint8)),
)


@pytest.mark.fuzz
@given(
    arrays=st.dictionaries(NAMES, ARRAYS, max_size=5),
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 5000)),
)
def test_any_file_is_a_reference_or_an_error_that_names_it(tmp_path_factory, arrays, flips, cut):
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    np.savez(path, **arrays)
    content = bytearray(path.read_bytes())
    for place, change in flips:
        content[place % len(content)] ^= change
    path.write_bytes(content[:cut])
    try:
        load_reference(str(path), [])
    except UserError as error:
        assert "fuzzed.npz" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("side", ["samples", "reference"])
def test_names_that_are_not_utf8_are_shown_escaped_and_used_as_they_are(tmp_path, capsys, side):
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9\xff.npz"))
    save(named, IMAGES[:40])
    save(tmp_path / "b.npz", IMAGES[40:80])
    samples, reference = (named, tmp_path / "b.npz") if side == "samples" else (tmp_path / "b.npz", named)
    options = (*ON_DIGITS, "--metrics", "fid", "--bootstrap", "0", "--work", str(tmp_path / "w"))
    for _ in range(2):  # the second run reads the folder of the first
        assert main(["eval", str(samples), "--reference", str(reference), *options, "--json"]) == 0
    assert main(["eval", str(samples), "--reference", str(reference), *options]) == 0
    capsys.readouterr().out.encode()  # strictly
