"""`arvbench eval` as a user meets it: samples of the demo, wrong inputs, an interruption."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arvbench.errors import UserError
from arvbench.harness.cli import main
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.protocols.protocol import PROTOCOLS, EvaluationProtocol, Metric

DIGITS = load_digits_rgb()
KEYS = {"metric", "value", "protocol", "protocol_id", "n_samples", "interval"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """300 noisy digits with their labels."""
    rng = np.random.default_rng(0)
    images = DIGITS.images_N3HW[:300].permute(0, 2, 3, 1).numpy()
    noisy = np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("samples") / "noisy.npz"
    np.savez(path, arr_0=noisy, labels=DIGITS.labels_N[:300].numpy())
    return path


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    for name in ("ARVBENCH_INCEPTION", "ARVBENCH_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def evaluate(capfd, *arguments: object) -> tuple[int, str, str]:
    code = main(["eval", *map(str, arguments)])
    out, err = capfd.readouterr()
    return code, out, err


def on_digits(samples: Path, *more: object) -> list[object]:
    return [samples, "--reference", "digits", "--protocol", "digits-cnn", *more]


def test_json_is_a_list_of_numbers_and_nothing_else(samples, capfd):
    code, out, err = evaluate(capfd, *on_digits(samples, "--json"))
    assert code == 0
    numbers = json.loads(out)
    assert all(number.keys() >= KEYS for number in numbers)
    values = {number["metric"]: number for number in numbers}
    assert list(values) == [
        *("fid", "fid-infinity", "isc", "kid", "precision", "recall", "density", "coverage"),
        *("per-class-fid", "label-accuracy"),
    ]
    assert values["fid"]["interval"][0] < values["fid"]["value"] < values["fid"]["interval"][1]
    assert values["label-accuracy"]["value"] > 0.95
    assert {number["n_samples"] for number in numbers} == {300}
    assert "note: " in err, "findings are told beside the list"


def test_the_table_has_ids_intervals_and_findings(samples, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = evaluate(capfd, *on_digits(samples, "--metrics", "fid,label-accuracy"))
    assert code == 0
    ids = {n["protocol_id"] for n in json.loads(evaluate(capfd, *on_digits(samples, "--metrics", "fid", "--json"))[1])}
    assert all(text in out for text in ("FID", "Label accuracy", "95 % interval", "300", *ids))
    assert "KID" not in out
    assert "note: labels are spread as if drawn uniformly: 29..32 images per class" in " ".join(out.split())


def test_warnings_are_printed_and_strict_turns_them_into_exit_code_1(samples, capfd, tmp_path):
    assert evaluate(capfd, *on_digits(samples, "--metrics", "fid", "--strict"))[0] == 0
    with np.load(samples) as stored:
        np.savez(tmp_path / "few.npz", arr_0=stored["arr_0"][:40])
    code, out, _ = evaluate(capfd, *on_digits(tmp_path / "few.npz", "--metrics", "fid", "--strict"))
    assert code == 1
    assert "warning: 40 samples are no more than the 64 dimensions" in " ".join(out.split())


def test_workers_and_work_folder_change_no_digit(samples, capfd, tmp_path):
    """Of metrics that read features, logits and labels: the others read the same ones."""
    metrics = ("--metrics", "fid,kid,isc,label-accuracy")

    def numbers(*more: object) -> list[dict]:
        code, out, _ = evaluate(capfd, *on_digits(samples, "--json", "--bootstrap", 5, *metrics, *more))
        assert code == 0
        return json.loads(out)

    alone = numbers()
    assert numbers("--workers", 2) == alone
    assert numbers("--work", tmp_path / "w") == alone
    assert numbers("--work", tmp_path / "w") == alone, "read from the folder"


def test_facts_missing_from_the_samples_can_be_stated_and_are_part_of_the_id(samples, capfd):
    def number(*more: object) -> dict:
        code, out, err = evaluate(capfd, *on_digits(samples, "--metrics", "fid", "--bootstrap", 0, "--json", *more))
        assert code == 0, err
        return json.loads(out)[0]

    plain, stated = number(), number("--labels", "uniform", "--uint8-rule", "round")
    assert plain["value"] == stated["value"] and plain["protocol_id"] != stated["protocol_id"]
    assert plain["protocol"] == "digits-cnn" and plain["description"].startswith("digits-cnn: fid")
    assert number("--reconstructions")["protocol_id"] != plain["protocol_id"]


def test_a_label_scheme_that_contradicts_the_samples_is_an_error(tmp_path, capfd):
    path = tmp_path / "s.npz"
    assert main(["sample", "demo/var", "--weights", "demo", "--images", "10", "--out", str(path)]) == 0
    code, _, err = evaluate(capfd, *on_digits(path, "--metrics", "isc", "--labels", "uniform"))
    assert code == 2 and "states labels 'balanced', not 'uniform'" in err


def test_samples_are_compared_with_the_official_recipe_of_a_model(samples, capfd):
    model = ("--model", "var-d16", "--metrics", "isc")
    _, _, err = evaluate(capfd, *on_digits(samples, *model, "--labels", "uniform", "--json"))
    assert "the official samples of this model have balanced labels" in " ".join(err.split())
    assert evaluate(capfd, *on_digits(samples, "--model", "var-d17"))[0] == 2
    code, _, err = evaluate(capfd, *on_digits(samples, "--model", "llamagen-b-256"))
    assert code == 2 and "no official recipe" in err


def test_the_reference_as_samples_is_reported_in_words_and_as_a_code(capfd, tmp_path):
    np.savez(tmp_path / "all.npz", arr_0=DIGITS.images_N3HW.permute(0, 2, 3, 1).numpy())
    _, out, err = evaluate(capfd, *on_digits(tmp_path / "all.npz", "--metrics", "fid", "--json", "--bootstrap", 0))
    assert "the samples are the very images of digits" in " ".join(err.split())
    assert "samples-are-reference" in json.loads(out)[0]["findings"]


def test_a_work_folder_that_cannot_be_written_is_reported_in_one_line(samples, capfd, tmp_path):
    work = tmp_path / "w"
    assert evaluate(capfd, *on_digits(samples, "--metrics", "isc", "--work", work))[0] == 0
    (work / "chunk-000000.safetensors").unlink()
    (work / "chunk-000000.lock").unlink(missing_ok=True)
    (work / "chunk-000000.lock").mkdir()
    code, _, err = evaluate(capfd, *on_digits(samples, "--metrics", "isc", "--work", work))
    assert code == 2 and "cannot write to work folder" in err and "Traceback" not in err


@pytest.mark.parametrize("bad", [("--bootstrap", 1), ("--seed", 2**70)])
def test_wrong_options_are_reported_before_any_work(samples, bad, capfd):
    code, out, err = evaluate(capfd, *on_digits(samples, *bad))
    assert code == 2 and out == "" and "Traceback" not in err


def fail(*_arguments):
    raise UserError("no real root")


WITHOUT_ROOT = EvaluationProtocol(
    name="without-root",
    extractor="digits-cnn",
    metrics=(Metric("recall", "64", reads="features", fewest=2, compute=fail),),
)


def test_a_protocol_that_fails_loses_none_of_the_others(samples, capfd):
    failing = [samples, "--reference", "digits", "--protocol", "without-root", "--metrics", "recall", "--json"]
    with PROTOCOLS.scoped("without-root", f"{__name__}:WITHOUT_ROOT"):
        code, out, err = evaluate(capfd, *failing, "--protocol", "digits-cnn")
        assert code == 1
        assert [number["protocol"] for number in json.loads(out)] == ["digits-cnn"]
        assert "warning: without-root has no numbers: no real root [failed]" in " ".join(err.split())
        code, out, err = evaluate(capfd, *failing)
        assert code == 2 and out == "" and "error: no real root" in err


def test_an_interrupted_evaluation_says_so_and_resumes(programs, samples, tmp_path):
    command = ["-m", "arvbench", "eval", *on_digits(samples, "--metrics", "fid,isc", "--work", tmp_path / "w")]
    process = programs.start(*command)
    deadline = time.monotonic() + 60
    while not (tmp_path / "w").is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130), err
    if process.returncode == 130:
        assert err.strip().endswith("interrupted")
    again = programs.run(*command)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nope.npz", "nope.npz"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "empty"),
        (lambda p: np.savez(p / "f.npz", arr_0=np.zeros((4, 32, 32, 3), np.float32)) or p / "f.npz", "uint8"),
        (lambda p: np.savez(p / "g.npz", arr_0=np.zeros((4, 32, 32), np.uint8)) or p / "g.npz", "grayscale"),
        (lambda p: np.savez(p / "o.npz", arr_0=np.array([{}], object)) or p / "o.npz", "pickled objects"),
        (lambda p: np.savez(p / "t.npz", arr_0=np.zeros((3, 32, 32, 3), np.uint8)) or p / "t.npz", "needs at least"),
        (lambda p: np.savez(p / "b.npz", arr_0=np.zeros((30, 64, 64, 3), np.uint8)) or p / "b.npz", "64 x 64"),
        (lambda p: mixed(p / "mixed"), "h.png"),
        (lambda p: cut(p / "cut"), "h.png"),
    ],
    ids=["missing", "empty", "float", "gray", "pickle", "few", "resolution", "mixed", "truncated"],
)
def test_unusable_samples_are_named_in_one_line(make, message, tmp_path, capfd):
    code, out, err = evaluate(capfd, *on_digits(make(tmp_path)))
    assert code == 2 and out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


def mixed(folder: Path) -> Path:
    folder.mkdir()
    for name, side in zip("abcdefgh", [32] * 7 + [31], strict=True):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def cut(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcdefgh":
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "h.png").write_bytes((folder / "h.png").read_bytes()[:900])
    return folder


def test_wrong_names_and_missing_weights_name_the_remedy(samples, capfd):
    code, _, err = evaluate(capfd, samples, "--protocol", "adm-v2", "--reference", "digits")
    assert code == 2 and "did you mean 'adm-v1'" in err
    code, _, err = evaluate(capfd, samples, "--reference", "digits")
    assert code == 2
    assert all(
        word in err for word in ("weights-inception-2015-12-05", "github.com", "6726825d", "--inception-weights")
    )
    code, _, err = evaluate(capfd, samples, "--protocol", "digits-cnn")
    assert code == 2 and "--reference" in err
    code, _, err = evaluate(capfd, *on_digits(samples, "--extractor-weights", "dino=x"))
    assert code == 2 and "dinov2-vit-l-14" in err
