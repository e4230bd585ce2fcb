"""A disk that refuses, whichever library writes: one line, the right exit code, finished work intact."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from arvbench.disk import cannot_write, save_tensors
from arvbench.errors import HostError, UserError
from arvbench.harness.cli import main
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.training.output import staged

DIGITS = load_digits_rgb()
ON_DIGITS = ("--protocol", "digits-cnn")


@pytest.fixture
def tiny_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here; the limit on file sizes is tested in any case")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def samples(tmp_path) -> Path:
    """300 images, two chunks of features of about 90 KiB and 15 KiB."""
    path = tmp_path / "samples.npz"
    np.savez(path, DIGITS.images_N3HW[:300].permute(0, 2, 3, 1).numpy())
    return path


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process may have 20,000 bytes at most."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def arvbench(capsys, *arguments: object) -> tuple[int, str]:
    """Exit code and last line of a command."""
    code = main(list(map(str, arguments)))
    return code, (capsys.readouterr().err.strip().splitlines() or [""])[-1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_what_the_machine_lacks_is_a_host_error(number):
    error = cannot_write(Path("x"), OSError(number, os.strerror(number)), kept="chunks are intact")
    assert isinstance(error, HostError) and f"cannot write x: {os.strerror(number)}; chunks are intact; " in str(error)


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EACCES, errno.ENOENT, errno.ENAMETOOLONG, None])
def test_what_the_user_chose_is_a_user_error(number):
    assert isinstance(cannot_write(Path("x"), OSError(number, "no")), UserError)


def test_a_full_disk_is_an_os_error_for_tensors_too(tiny_disk):
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors({"x": torch.zeros(100_000)}, tiny_disk / "x.safetensors")
    assert caught.value.errno == errno.ENOSPC


def test_a_training_on_a_full_disk_ends_in_one_line_and_keeps_the_earlier_file(tiny_disk):
    (tiny_disk / "weights").write_text("earlier")
    with pytest.raises(HostError, match=r"cannot write to .*No space left"), staged(tiny_disk) as stage:
        save_tensors({"x": torch.zeros(100_000)}, stage / "weights")
    assert [path.name for path in tiny_disk.iterdir()] == ["weights"]
    assert (tiny_disk / "weights").read_text() == "earlier"


def test_features_on_a_full_disk_keep_the_finished_chunks(tiny_disk, samples, capsys):
    command = ("eval", samples, "--reference", "digits", *ON_DIGITS, "--metrics", "fid", "--work", tiny_disk / "w")
    with (tiny_disk / "fill").open("wb") as fill:
        fill.write(b"\0" * 24_000)
    code, line = arvbench(capsys, *command)
    assert code == 3 and "chunk-000000.safetensors: No space left on device; finished chunks are intact" in line
    assert not list((tiny_disk / "w").glob("*.part"))


def test_a_limit_on_file_sizes_stops_the_first_chunk(tmp_path, samples, capsys, small_files):
    command = ("eval", samples, "--reference", "digits", *ON_DIGITS, "--metrics", "fid", "--work", tmp_path / "w")
    code, line = arvbench(capsys, *command)
    assert code == 2 and "File too large; finished chunks are intact; raise the limit" in line


@pytest.mark.parametrize(
    "command",
    [
        ("reference", "make", "digits", *ON_DIGITS, "--keep-images", "300", "--out"),
        ("sample", "demo/nar", "--weights", "demo", "--images", "20", "--out"),
    ],
    ids=["reference", "sample"],
)
def test_every_writer_reports_the_limit_in_one_line_and_leaves_nothing(tmp_path, command, capsys, small_files):
    out = tmp_path / "out" / "x.npz"
    code, line = arvbench(capsys, *command, out)
    assert code == 2 and "File too large" in line and not list(out.parent.iterdir())
