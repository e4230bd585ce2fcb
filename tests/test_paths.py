"""Paths as users write them, and files that are none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arvbench.disk import save_tensors
from arvbench.errors import UserError, shown
from arvbench.harness.cli import main
from arvbench.paths import printable, regular_file, user_path

HOME = Path.home()


def test_a_path_that_can_be_used_is_returned_expanded(tmp_path: Path) -> None:
    assert user_path("~") == HOME
    assert user_path("~/not-there/yet") == HOME / "not-there" / "yet"
    assert user_path(tmp_path / "missing") == tmp_path / "missing"
    (tmp_path / "file").touch()
    assert user_path(str(tmp_path / "file" / "below")) == tmp_path / "file" / "below"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "an empty path"),
        ("~nosuchuser/x", "no such user"),
        ("a" * 300, "too long"),
        ("x/" * 3000 + "y", "too long"),
        ("é" * 200, "too long"),
        ("a\0b", "null"),
    ],
)
def test_a_path_that_the_system_refuses_is_a_user_error_on_one_line(path: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        user_path(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match=r"(?i)too many"):
        user_path(tmp_path / "a")


def test_what_is_not_a_file_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    kinds = {"pipe": "a named pipe", "socket": "a socket", ".": "a folder", "/dev/zero": "a device"}
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the address of a socket has to be short
        listener.bind("socket")
        for name, kind in kinds.items():
            with pytest.raises(UserError, match=f"it is {kind}"):
                regular_file(tmp_path / name)
    (tmp_path / "file").write_bytes(b"123")
    regular_file(tmp_path / "file")
    with pytest.raises(UserError, match="3 bytes, and at most 2"):
        regular_file(tmp_path / "file", most_bytes=2)
    with pytest.raises(UserError, match="No such file"):
        regular_file(tmp_path / "missing")


VERBS = {
    "eval": ("eval", "{}.npz", "--reference", "digits"),
    "reference of eval": ("eval", "x.npz", "--reference", "{}"),
    "work folder": ("eval", "x.npz", "--work", "{}"),
    "report": ("report", "{}"),
    "page": ("report", "x", "--out", "{}"),
    "suite": ("run", "{}.yaml"),
    "run folder": ("run", "demo", "--out", "{}"),
    "suite of a check": ("check", "--against", "HEAD", "--suite", "{}.yaml"),
    "folder of a check": ("check", "--against", "HEAD", "--out", "{}"),
    "weights of run": ("run", "demo", "--weights", "{}"),
    "inception": ("run", "demo", "--inception-weights", "{}"),
    "samples": ("sample", "demo/var", "--weights", "demo", "--images", "1", "--out", "{}.npz"),
    "weights of sample": ("sample", "demo/var", "--images", "1", "--out", "x.npz", "--weights", "{}"),
    "reference": ("reference", "make", "digits", "--out", "{}.npz", "--protocol", "digits-cnn"),
    "images of a reference": ("reference", "make", "{}", "--out", "r.npz", "--protocol", "digits-cnn"),
    "convert": ("convert", "hmar-d16", "--nsp", "{}", "--mp", "b", "--out", "x.safetensors"),
    "merged": ("convert", "hmar-d16", "--nsp", "a", "--mp", "b", "--out", "{}.safetensors"),
    "verify": ("verify", "{}.json"),
    "trained": ("train", "demo/var", "--out", "{}"),
    "doctor": ("doctor", "--weights", "{}"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("path", ["n" * 300, "~nosuchuser/x"])
def test_every_verb_refuses_a_path_with_one_line(
    verb: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main([part.format(path) for part in VERBS[verb]])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2, lines
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 400
    assert list(tmp_path.iterdir()) == []


PIPES = {
    "samples": ("eval", "pipe.npz", "--reference", "digits", "--protocol", "digits-cnn"),
    "reference": ("eval", "samples.npz", "--reference", "pipe.npz", "--protocol", "digits-cnn"),
    "records": ("report", "pipe.jsonl"),
    "suite": ("run", "pipe.yaml"),
    "weights": ("sample", "demo/var", "--weights", "pipe.safetensors", "--images", "1", "--out", "x.npz"),
    "official weights": ("sample", "hmar-d16", "--weights", "pipe.pth", "--images", "1", "--out", "x.npz"),
    "inception": ("eval", "samples.npz", "--reference", "digits", "--inception-weights", "pipe.pth"),
    "parts": ("convert", "hmar-d16", "--nsp", "pipe.pth", "--mp", "pipe.pth", "--out", "x.safetensors"),
    "fixture": ("verify", "pipe.json"),
    "output": ("sample", "demo/var", "--weights", "demo", "--images", "1", "--out", "pipe.npz"),
    "output of a reference": ("reference", "make", "digits", "--out", "pipe.npz", "--protocol", "digits-cnn"),
}


@pytest.mark.parametrize("verb", PIPES)
def test_a_named_pipe_in_place_of_a_file_never_hangs(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.frombuffer(Random(0).randbytes(4 * 8 * 8 * 3), np.uint8).reshape(4, 8, 8, 3)
    np.savez("samples.npz", arr_0=images)
    for ending in ("npz", "jsonl", "yaml", "safetensors", "pth", "json"):
        os.mkfifo(f"pipe.{ending}")
    code = main([*PIPES[verb]])
    error = capsys.readouterr().err
    assert code == 2 and error.strip().splitlines()[-1].startswith("error: "), error


DEVICES = ["mps", "meta", "xpu", "hpu", "vulkan", "lazy", "cpu:1", "cuda:-1", "cuda:99", f"cuda:{10**20}", "", "\0"]
VERBS_WITH_A_DEVICE = {
    "run": ("run", "demo", "--models", "demo/var", "--no-report"),
    "sample": ("sample", "demo/var", "--weights", "demo", "--images", "1", "--out", "x.npz"),
    "eval": ("eval", "samples.npz", "--reference", "digits", "--protocol", "digits-cnn"),
    "reference make": ("reference", "make", "samples.npz", "--out", "r.npz", "--protocol", "digits-cnn"),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("verb", VERBS_WITH_A_DEVICE)
def test_a_device_that_this_machine_lacks_is_one_line(
    verb: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.frombuffer(Random(0).randbytes(4 * 8 * 8 * 3), np.uint8).reshape(4, 8, 8, 3)
    np.savez("samples.npz", arr_0=images)
    code = main([*VERBS_WITH_A_DEVICE[verb], "--device", device])
    error = capsys.readouterr().err
    assert code in ((2, 3) if device == "cuda:99" else (2,)), error
    assert "Traceback" not in error and error.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("variable", ["ARVBENCH_CACHE", "ARVBENCH_REFERENCES"])
def test_a_variable_with_an_unusable_path_is_refused_as_well(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "~nosuchuser/x")
    images = np.frombuffer(Random(0).randbytes(4 * 8 * 8 * 3), np.uint8).reshape(4, 8, 8, 3)
    np.savez(tmp_path / "s.npz", arr_0=images)
    reference = "VIRTUAL_imagenet256_labeled.npz" if variable == "ARVBENCH_REFERENCES" else "digits"
    options = ["--protocol", "digits-cnn" if reference == "digits" else "adm-v1", "--bootstrap", "0"]
    code = main(["eval", str(tmp_path / "s.npz"), "--reference", reference, *options])
    error = capsys.readouterr().err
    assert (code, "Traceback" in error) in ((2, False), (0, False)), error


@pytest.mark.parametrize("arguments", [("report", "x"), ("run", "demo", "--models", "demo/var"), ("doctor",)])
def test_a_working_folder_that_is_gone_ends_with_one_line_or_well(arguments: tuple[str, ...], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = (
        "import os, sys; os.rmdir(os.getcwd()); from arvbench.harness.cli import main; "
        f"sys.exit(main({[*arguments]!r}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=gone, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode in (0, 2, 3), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_name_that_is_not_utf8_can_be_printed() -> None:
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert printable(b"caf\xc3\xa9") == "café"
    assert printable("half \ud800") == r"half \ud800"


LATIN_1 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "small.yaml", "--out", LATIN_1, "--json"), 0),
        (("run", f"{LATIN_1}.yaml", "--out", "out"), 2),
        (("run", "small.yaml", "--out", "out", "--weights", LATIN_1), 2),
        (("eval", f"{LATIN_1}.npz", "--workers", "2", "--work", f"work-{LATIN_1}"), 0),
        (("eval", f"{LATIN_1}.safetensors", "--workers", "1", "--work", "work"), 0),
        (("sample", "demo/var", "--weights", f"{LATIN_1}.pth", "--images", "1", "--out", "x.npz"), 2),
        (("convert", "hmar-d16", "--nsp", f"{LATIN_1}.pth", "--mp", "b", "--out", "x.safetensors"), 2),
        (("report", "missing", "--out", f"{LATIN_1}.html"), 2),
        (("sample", "demo/var", "--weights", "demo", "--images", "10", "--out", f"new-{LATIN_1}"), 0),
        (("reference", "make", f"{LATIN_1}.npz", "--out", f"r-{LATIN_1}.npz", "--protocol", "digits-cnn"), 0),
    ],
    ids=[
        "run-folder",
        "suite",
        "weights",
        "helpers",
        "tensors",
        "a-file-of-weights",
        "parts",
        "page",
        "samples",
        "reference",
    ],
)
def test_a_path_that_is_not_utf8_is_used_or_refused_with_one_line(
    arguments: tuple[str, ...],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    case = "{model: demo/var, weights: demo, threads: 1, repeats: 1, max_warmup: 1}"
    Path("small.yaml").write_text(f"name: small\ncases:\n  - {case}\n", encoding="utf-8")
    images = np.frombuffer(Random(0).randbytes(600 * 32 * 32 * 3), np.uint8).reshape(600, 32, 32, 3)
    np.savez(f"{LATIN_1}.npz", arr_0=images)
    save_tensors({"images": torch.from_numpy(images.copy())}, Path(f"{LATIN_1}.safetensors"))
    torch.save({"weight": torch.zeros(1)}, "weights.pth")
    Path("weights.pth").rename(f"{LATIN_1}.pth")
    options = ("--reference", "digits", "--protocol", "digits-cnn", "--metrics", "fid", "--bootstrap", "0")
    code = main([*arguments, *(options if arguments[0] == "eval" else ())])
    error = capfd.readouterr().err
    assert code == expected, error
    assert "Traceback" not in error and "not valid UTF-8" not in error
    if expected == 2:
        assert error.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "value",
    [10**5000, ["x" * 10**6] * 10**4, {"a": {"b": {"c": [1] * 10**5}}}, "y" * 10**7, None, True, 1.5],
    ids=["digits", "list", "mapping", "text", "none", "true", "number"],
)
def test_a_value_in_a_message_is_short(value: object) -> None:
    assert len(shown(value)) < 1000


@pytest.mark.fuzz
@given(st.text())
def test_any_text_is_a_path_or_a_user_error(text: str) -> None:
    try:
        path = user_path(text)
    except UserError as error:
        assert "\n" not in str(error) or "\n" in text
    else:
        path.exists()
    printable(text).encode("utf-8")
