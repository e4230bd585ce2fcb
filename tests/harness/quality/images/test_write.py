"""Written images are read back unchanged, by us and by others, and a killed run leaves no partial file."""

from __future__ import annotations

import fcntl
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from arvbench.errors import HostError, UserError
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.source import ImageSource, Provenance
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.images.write import (
    check_target,
    write_folder,
    write_images,
    write_npz,
    write_safetensors,
)

SOURCE = str(Path(__file__).resolve().parents[4] / "src")
COUNT = 300
"""More than one piece."""
PROVENANCE = Provenance(
    labels="balanced", uint8_rule="round", resize="bicubic:6", sampling='in "words" ü', model="m", seeds="s", note="n"
)
WRITERS = {"x.npz": write_npz, "x.safetensors": write_safetensors, "x": write_folder}


def images(count: int = COUNT, height: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def source(**changes) -> TensorSource:
    provenance = {
        "labels_N": torch.arange(COUNT) % 7,
        "seeds_N": torch.arange(COUNT) + 2**40,
        "provenance": PROVENANCE,
    }
    return TensorSource(images(), **(provenance | changes))


@pytest.fixture(params=WRITERS)
def target(request, tmp_path) -> Path:
    return tmp_path / request.param


def write(path: Path, what: ImageSource | None = None, **options) -> str:
    return WRITERS[path.name](path, what or source(), **options)


def test_written_samples_are_read_back(target):
    heard = []
    digest = write(target, progress=heard.append)
    assert digest == images_sha256(images()) and heard == [256, 300]
    back = open_images(target)
    assert (back.count, back.shape, back.provenance) == (COUNT, (6, 5), PROVENANCE)
    assert torch.equal(back.read(0, COUNT), images()) and torch.equal(back.read(250, 260), images()[250:260])
    assert torch.equal(back.labels_N, source().labels_N) and torch.equal(back.seeds_N, source().seeds_N)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_images_without_any_facts(target):
    write(target, TensorSource(images()))
    back = open_images(target)
    assert back.labels_N is None and back.seeds_N is None and back.provenance == Provenance()
    assert torch.equal(back.read(0, COUNT), images())


def test_equal_samples_make_equal_files(target, tmp_path):
    def content(path: Path) -> dict[str, bytes]:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return {file.name: file.read_bytes() for file in files}

    write(target)
    other = tmp_path / "elsewhere" / target.name
    write(other)
    assert content(target) == content(other)
    write_images(target, TensorSource(images().flip(0)), replace=True)
    assert content(target) != content(other)


def test_others_read_the_files(tmp_path):
    images_NHW3 = images().permute(0, 2, 3, 1).numpy()
    write_npz(tmp_path / "x.npz", source())
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stored:
        assert stored["arr_0"].dtype == np.uint8 and np.array_equal(stored["arr_0"], images_NHW3)
        assert stored["labels"].dtype == np.int64 and stored["labels"].tolist() == source().labels_N.tolist()
        assert list(stored) == ["arr_0", "labels", "seeds", "arvbench"]
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    write_safetensors(tmp_path / "x.safetensors", source())
    loaded = load_file(tmp_path / "x.safetensors")
    assert torch.equal(loaded["images"], images()) and torch.equal(loaded["seeds"], source().seeds_N)
    write_folder(tmp_path / "x", source())
    with Image.open(tmp_path / "x" / "000123.png") as picture:
        assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), images_NHW3[123])


def test_names_sort_as_numbers_however_many_there_are(tmp_path):
    write_folder(tmp_path / "x", source(), fewest_digits=1)
    names = sorted(path.name for path in (tmp_path / "x").glob("*.png"))
    assert names == [f"{number:03d}.png" for number in range(COUNT)]
    assert open_images(tmp_path / "x").provenance.note == "n"


def test_the_ending_decides_the_format(tmp_path):
    for name in ("a.npz", "A.NPZ", "b.safetensors", "c", "d/e/f.npz"):
        write_images(tmp_path / name, source())
        assert open_images(tmp_path / name).count == COUNT


def test_samples_are_replaced_only_with_force(target):
    write_images(target, source())
    with pytest.raises(UserError, match=r"(already exists|is not empty).*--force"):
        write_images(target, source())
    fewer = TensorSource(images(5))
    write_images(target, fewer, replace=True)
    assert open_images(target).count == 5
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    write_images(tmp_path / "mine", source())  # an empty one is fine
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("five years of work")
    with pytest.raises(UserError, match="theirs is not empty; it was not written by arvbench"):
        write_images(tmp_path / "theirs", source(), replace=True)
    assert (tmp_path / "theirs" / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["x.npy", "x.zip", "x.png", "x.pt"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"written as \.npz or \.safetensors, or into a folder"):
        check_target(tmp_path / name)


def test_targets_that_are_something_else_are_refused(tmp_path):
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(UserError, match="is a folder; give a file's name"):
        check_target(tmp_path / "x.npz")
    (tmp_path / "x").write_text("a file")
    for replace in (False, True):
        with pytest.raises(UserError, match=r"already exists; choose another name$"):
            check_target(tmp_path / "x", replace=replace)


class _Breaks(TensorSource):
    """Images that end in an error after the first piece."""

    def read(self, start: int, stop: int) -> Tensor:
        if start:
            raise self.error
        return super().read(start, stop)

    error: BaseException = UserError("image 256 is damaged")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("error", [UserError("image 256 is damaged"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(target, before, error):
    if before:
        write(target)
    broken = _Breaks(images(), name="broken")
    broken.error = error
    with pytest.raises(type(error)):
        write(target, broken)
    assert [path.name for path in target.parent.iterdir()] == ([target.name] if before else [])
    if before:
        assert torch.equal(open_images(target).read(0, COUNT), images())


SLOW = """
import sys, time, torch
from pathlib import Path
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.images.write import write_images

class Slow(TensorSource):
    def read(self, start, stop):
        if start:
            print("half", flush=True)
            time.sleep(60)
        return super().read(start, stop)

write_images(Path(sys.argv[1]), Slow(torch.zeros(300, 3, 6, 5, dtype=torch.uint8)))
"""


def test_a_killed_run_leaves_no_half_and_the_next_one_clears_up(programs, target):
    process = programs.start("-c", SLOW, target)
    try:
        assert process.stdout.readline() == "half\n"
        part = target.with_name(f".{target.name}.part")
        assert part.exists() and not target.exists()
        with pytest.raises(UserError, match="another process is writing x"):
            write(target)
        assert part.exists()
    finally:
        process.kill()
        process.communicate()
    assert not target.exists() and part.exists()
    write(target)
    assert torch.equal(open_images(target).read(0, COUNT), images())
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_file_that_another_run_finished_meanwhile_is_left_alone(tmp_path, monkeypatch):
    """Between opening and locking, the other run gives the hidden file its name."""
    target, part = tmp_path / "x.npz", tmp_path / ".x.npz.part"
    lock = fcntl.flock

    def late(file, operation):
        part.write_bytes(b"the other run's samples")
        part.rename(target)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another process is writing"):
        write(target)
    assert target.read_bytes() == b"the other run's samples"


def test_a_disk_that_is_too_small_is_found_out_before_anything_is_drawn(tmp_path, monkeypatch):
    free = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    never = _Breaks(images())
    never.read = lambda start, stop: pytest.fail("images were read")
    for name in ("x.npz", "x.safetensors"):
        with pytest.raises(HostError, match=rf"{name} needs \S+ MiB, 0\.0 MiB are free: make room"):
            write(tmp_path / name, never)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_half_way_is_said_to_be(target):
    broken = _Breaks(images())
    broken.error = OSError(28, "No space left on device")
    with pytest.raises(HostError, match=r"cannot write .*x.*: No space left on device; nothing is left of it"):
        write(target, broken)
    assert list(target.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file/x\.npz: .*file is not a writable folder"):
        check_target(tmp_path / "file" / "x.npz")
    with pytest.raises(UserError, match=r"cannot write .*file/x\.npz: .*(directory|exists)"):
        write_npz(tmp_path / "file" / "x.npz", source())
    check_target(tmp_path / "not" / "there" / "yet.npz")


def test_nothing_is_in_memory_as_a_whole(target):
    """At most one piece is read at a time, in order."""
    reads = []

    class Watched(TensorSource):
        def read(self, start: int, stop: int) -> Tensor:
            reads.append((start, stop))
            return super().read(start, stop)

    write(target, Watched(images()))
    assert reads == [(0, 256), (256, 300)]
