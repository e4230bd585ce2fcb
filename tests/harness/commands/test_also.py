"""`arvbench eval --also`: rows are what separate evaluations give, and bad input is one line before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from arvbench.harness.cli import main
from arvbench.harness.commands.also import _rest
from arvbench.harness.data.digits import load_digits_rgb

DIGITS = load_digits_rgb()
METRICS = ("--metrics", "fid,label-accuracy")
OF_SAMPLES = ("--metrics", "isc,label-accuracy")
"""Metrics that read no reference."""


def noisy(path: Path, *, first: int, noise: float) -> Path:
    """Write 100 digits with noise and their labels."""
    rng = np.random.default_rng(first)
    images = DIGITS.images_N3HW[first : first + 100].permute(0, 2, 3, 1).numpy()
    made = np.clip(images + rng.normal(0, noise, images.shape), 0, 255).astype(np.uint8)
    np.savez(path, arr_0=made, labels=DIGITS.labels_N[first : first + 100].numpy())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("also")
    noisy(made / "given.npz", first=0, noise=20)
    noisy(made / "guided.npz", first=300, noise=150)
    return made


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)


def evaluate(capfd, samples: str, *more: str) -> tuple[int, str, str]:
    code = main(["eval", samples, "--reference", "digits", "--protocol", "digits-cnn", *more])
    out, err = capfd.readouterr()
    return code, out, err


def numbers(capfd, samples: str, *more: str, metrics: tuple[str, ...] = METRICS) -> list[dict]:
    code, out, err = evaluate(capfd, samples, "--json", "--bootstrap", "0", *metrics, *more)
    assert code == 0, err
    return json.loads(out)


def test_every_row_is_what_an_evaluation_of_its_own_gives(capfd) -> None:
    also = ("--also", "guidance=guided.npz", "--also", "reference=guided.npz", "--also", "images=50")
    rows = numbers(capfd, "given.npz", *also)
    alone = numbers(capfd, "given.npz")
    assert rows[:2] == alone and "also" not in alone[0]
    by_row = {(row["also"], row["metric"]): row for row in rows[2:]}
    assert len(by_row) == len(rows) - 2 == 6
    (guided, _), (against, _) = (
        numbers(capfd, "guided.npz"),
        numbers(capfd, "given.npz", "--reference", "guided.npz"),
    )
    for name, number in (("guidance=guided.npz", guided), ("reference=guided.npz", against)):
        row = by_row[name, "fid"]
        assert (row["value"], row["protocol_id"]) == (number["value"], number["protocol_id"])
    assert by_row["images=50", "fid"]["n_samples"] == 50
    assert by_row["images=50", "fid"]["value"] > alone[0]["value"], "few images bias it upwards"


def test_the_table_fits_80_columns_and_says_how_each_row_was_made(capfd, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    also = ("--also", "uint8=truncate", "--also", "jpeg=30,90", "--also", "guidance=guided.npz")
    code, out, _ = evaluate(capfd, "given.npz", *OF_SAMPLES, "--uint8-rule", "round", *also)
    assert code == 0
    table = out[out.index("Why your number differs") :]
    assert max(map(len, table.partition("In brackets")[0].splitlines())) <= 80
    rows = [line for line in table.splitlines() if line.startswith("│")]
    assert [row.split()[1] for row in rows] == ["as", "uint8", "jpeg", "jpeg", "guidance"]
    assert "(-" in rows[4] and "*" in rows[4] and "*" not in rows[3], (
        "samples of much more noise are far outside the interval"
    )
    assert "note: uint8=truncate: simulated" in out and "note: guidance=guided.npz: other samples" in out
    assert _rest('a, b; {"cfg":1.5,"k":null}', 'a, b; {"cfg":3.0,"k":null}') == "cfg:1.5"


def test_features_of_rows_are_kept_beside_those_of_the_samples(capfd, tmp_path) -> None:
    more = ("--also", "images=50", "--work", str(tmp_path / "w"))
    first = numbers(capfd, "given.npz", *more, metrics=OF_SAMPLES)
    assert [path.name for path in (tmp_path / "w" / "also").glob("*/chunk-*.safetensors")] == [
        "chunk-000000.safetensors"
    ]
    assert numbers(capfd, "given.npz", *more, metrics=OF_SAMPLES) == first


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ("uint8", "write CAUSE=VALUE"),
        ("images=", "got none"),
        ("image=5", "did you mean 'images'"),
        ("images=100", "given.npz has 100 images; give a number from 2 to 99"),
        ("images=-3", "from 2 to 99"),
        ("jpeg=high", "a number from 1 to 100"),
        ("uint8=truncate", "given.npz does not say by which rule"),
        ("resize=bicubic", "no resize 'bicubic'"),
        ("reference=nowhere.npz", "nowhere.npz"),
        ("protocol=digit-cnn", "did you mean 'digits-cnn'"),
        ("protocol=cmmd", "cmmd has none of the metrics fid, label-accuracy"),
        ("guidance=none.npz", "none.npz"),
    ],
)
def test_bad_input_is_one_line_before_any_work(also: str, message: str, capfd) -> None:
    code, out, err = evaluate(capfd, "given.npz", *METRICS, "--also", also)
    (line,) = err.strip().splitlines()
    assert code == 2 and out == "" and line.startswith("error: ") and message in line and "also" in line


def test_a_protocol_whose_weights_are_missing_is_named_before_any_work(capfd, monkeypatch) -> None:
    monkeypatch.setenv("ARVBENCH_INCEPTION", "nowhere.pth")
    code, out, err = evaluate(capfd, "given.npz", *METRICS, "--also", "protocol=adm-v1")
    (line,) = err.strip().splitlines()
    assert code == 2 and out == "" and line.startswith("error: --also protocol=adm-v1: ") and "nowhere.pth" in line


def test_a_row_that_fails_ends_with_its_name_after_the_numbers_before_it(capfd) -> None:
    also = ("--also", "images=50", "--also", "resize=bicubic:16")
    code, out, err = evaluate(capfd, "given.npz", *OF_SAMPLES, "--json", *also)
    assert code == 2 and [number.get("also") for number in json.loads(out)] == [None, None, "images=50", "images=50"]
    assert "error: --also resize=bicubic:16: extractor 'digits-cnn' takes 32 x 32" in " ".join(err.split())


def test_a_shard_has_no_rows(capfd, tmp_path) -> None:
    more = ("--shard", "1/2", "--work", str(tmp_path), "--also", "images=50")
    code, _, err = evaluate(capfd, "given.npz", *METRICS, *more)
    assert code == 2 and "--also needs the images and all of their features here" in err
