"""One pass in chunks: equal features from any process and after any interruption."""

from __future__ import annotations

import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from arvbench.errors import CheckpointError, UserError
from arvbench.files import locked
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.machine.source import source_sha256
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.features.chunks import CHUNK, chunk_count, chunk_range, claim_folder, task_key
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.images.source import ImageSource

LAYERS = frozenset({"64", "logits"})
IMAGES = load_digits_rgb().images_N3HW[: 3 * CHUNK + 10]


class Watched(ImageSource):
    """Images in memory; records the ranges read, and can fail at a chunk."""

    name = "watched"

    def __init__(self, images=IMAGES, fail_at: int | None = None, key: str = "digits") -> None:
        self.images, self.fail_at, self._key = images, fail_at, key
        self.count, self.shape = len(images), tuple(images.shape[2:])
        self.reads: list[tuple[int, int]] = []

    def read(self, start, stop):
        if self.fail_at is not None and start >= self.fail_at:
            raise KeyboardInterrupt
        self.reads.append((start, stop))
        return self.images[start:stop]

    @property
    def key(self):
        return self._key


def scan(source, layers, *, work: Path | None = None, progress=None):
    return FeaturePass(work=work).scan(source, layers, progress)


@pytest.fixture(scope="module")
def layer_requests():
    return [(load_extractor("digits-cnn"), LAYERS)]


@pytest.fixture(scope="module")
def direct(layer_requests):
    return scan(Watched(), layer_requests)


def same(left, right) -> bool:
    equal = left.images_sha256 == right.images_sha256 and torch.equal(left.histogram, right.histogram)
    for layer in LAYERS:
        a, b = left.features["digits-cnn"], right.features["digits-cnn"]
        equal &= torch.equal(a.features(layer), b.features(layer))
        equal &= torch.equal(a.moments(layer).cov_DD, b.moments(layer).cov_DD)
    return equal


def test_every_image_is_read_once_and_all_layers_come_from_that(layer_requests):
    source, heard = Watched(), []
    result = scan(source, layer_requests, progress=heard.append)
    assert source.reads == [(c.start, c.stop) for c in (chunk_range(i, source.count) for i in range(4))]
    assert heard == [256, 512, 768, 778]
    features = result.features["digits-cnn"]
    assert (features.count, features.features("64").shape) == (778, (778, 64))
    expected = torch.cat([layer_requests[0][0].extract(part)["64"] for part in IMAGES.split(CHUNK)])
    assert torch.equal(features.features("64"), expected)
    assert result.images_sha256 == images_sha256(IMAGES)
    assert torch.equal(result.histogram, torch.bincount(IMAGES.flatten(), minlength=256))


def test_an_interrupted_pass_resumes_and_ends_with_the_same_bits(layer_requests, direct, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        scan(Watched(fail_at=2 * CHUNK), layer_requests, work=tmp_path / "w")
    second = Watched()
    result = scan(second, layer_requests, work=tmp_path / "w")
    assert second.reads == [(512, 768), (768, 778)], "finished chunks are read from the folder"
    assert same(result, direct)
    third = Watched()
    assert same(scan(third, layer_requests, work=tmp_path / "w"), direct) and third.reads == []


_SLOW_PASS = """
    import sys, time
    sys.path[:0] = [{tests!r}]
    import torch
    torch.set_num_threads(1)
    from pathlib import Path
    from test_chunks import LAYERS, Watched
    from arvbench.harness.quality.extractors import load_extractor
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    class Slow(Watched):
        def read(self, start, stop):
            time.sleep(0 if start < 512 else 60)
            return super().read(start, stop)
    FeaturePass(work=Path({work!r})).scan(Slow(), [(load_extractor("digits-cnn"), LAYERS)])
"""


def test_kill_9_costs_one_chunk_and_changes_no_bit(programs, layer_requests, direct, tmp_path):
    work = tmp_path / "w"
    script = textwrap.dedent(_SLOW_PASS).format(tests=str(Path(__file__).parent), work=str(work))
    process = programs.start("-c", script)
    try:
        deadline = time.monotonic() + 60
        while not (work / "chunk-000001.safetensors").is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    source = Watched()
    assert same(scan(source, layer_requests, work=work), direct)
    assert source.reads == [(512, 768), (768, 778)], "the lock of the dead process is free"


def test_a_locked_chunk_is_left_to_its_process(layer_requests, direct, tmp_path):
    work = tmp_path / "w"
    scan(Watched(), layer_requests, work=work)
    theirs = work / "chunk-000001.safetensors"
    content = theirs.read_bytes()
    theirs.unlink()
    source, heard = Watched(), []

    def other_process_finishes(done: int) -> None:
        heard.append(done)
        theirs.write_bytes(content)

    with locked(theirs.with_suffix(".lock")) as mine:
        assert mine
        assert same(scan(source, layer_requests, work=work, progress=other_process_finishes), direct)
    assert heard[0] == source.count - CHUNK and source.reads == [], "this process met the lock and made nothing"


def test_a_folder_of_other_images_or_of_someone_else_is_refused(layer_requests, tmp_path):
    scan(Watched(), layer_requests, work=tmp_path / "w")
    with pytest.raises(UserError, match="other images, other extractors or other versions"):
        scan(Watched(key="others"), layer_requests, work=tmp_path / "w")
    with pytest.raises(UserError, match="other images"):
        scan(Watched(), [(layer_requests[0][0], frozenset({"64"}))], work=tmp_path / "w")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty and was not made by arvbench"):
        scan(Watched(), layer_requests, work=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="cannot write to work folder"):
        scan(Watched(), layer_requests, work=tmp_path / "mine" / "thesis.tex" / "w")


def test_processes_that_start_at_once_and_leftovers_of_a_killed_one_share_a_folder(layer_requests, direct, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(20):
            folder = tmp_path / str(attempt)
            list(pool.map(lambda _: claim_folder(folder, Watched(), layer_requests), range(8)))  # noqa: B023
    work = tmp_path / "left"
    work.mkdir()
    (work / ".task.txt.123-0a1b2c3d.part").write_text("half")
    assert same(scan(Watched(), layer_requests, work=work), direct)
    (work / "chunk-000001.safetensors").unlink()
    (work / ".chunk-000001.safetensors.99-0a1b2c3d.part").write_bytes(b"half")
    assert same(scan(Watched(), layer_requests, work=work), direct)
    assert not list(work.glob(".chunk*"))


def test_features_do_not_depend_on_the_threads_of_the_caller(layer_requests, direct):
    torch.set_num_threads(2)
    assert same(scan(Watched(), layer_requests), direct)
    assert torch.get_num_threads() == 2


def test_a_changed_preprocessing_or_source_is_another_task(layer_requests):
    extractor, layers = layer_requests[0]
    key = task_key(Watched(), layer_requests)
    assert task_key(Watched(), [(replace(extractor, preprocessing="another"), layers)]) != key
    assert f"arvbench source {source_sha256()}" in key.splitlines()


def test_a_damaged_chunk_is_named(layer_requests, tmp_path):
    scan(Watched(), layer_requests, work=tmp_path / "w")
    path = tmp_path / "w" / "chunk-000000.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"chunk-000000.*is damaged.*remove it"):
        scan(Watched(), layer_requests, work=tmp_path / "w").features["digits-cnn"].features("64")


def test_a_changed_byte_is_noticed_and_an_unsigned_chunk_is_none(layer_requests, tmp_path):
    scan(Watched(), layer_requests, work=tmp_path / "w")
    path = tmp_path / "w" / "chunk-000000.safetensors"
    whole = path.read_bytes()
    for changed in (whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], save(load(whole))):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"chunk-000000.*is damaged.*remove it"):
            result = scan(Watched(), layer_requests, work=tmp_path / "w")
            [result.features[name].features(layer) for name in ("digits-cnn",) for layer in LAYERS]


def test_features_that_are_not_finite_name_the_images(layer_requests):
    extractor = layer_requests[0][0]

    class Broken(Watched):
        def read(self, start, stop):
            images = super().read(start, stop)
            return images.float() if start == CHUNK else images

    with pytest.raises(UserError, match=r"watched, images 256..511: quality is measured on uint8"):
        scan(Broken(), [(extractor, LAYERS)])
    nan = torch.full((1, 64), float("nan"))
    broken = replace(
        extractor, network=lambda x: {"64": nan.expand(len(x), -1), "logits": nan[:, :10].expand(len(x), -1)}
    )
    with pytest.raises(CheckpointError, match=r"watched, images 0..255: .*NaN or infinite features"):
        scan(Watched(), [(broken, LAYERS)])


def test_chunks_cover_the_images_once():
    for images in (1, 255, 256, 257, 1000, 50_000):
        ranges = [chunk_range(chunk, images) for chunk in range(chunk_count(images))]
        assert [i for numbers in ranges for i in numbers] == list(range(images))
