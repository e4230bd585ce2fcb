"""Every writer dies, or fails, at each of its steps; the next one finds old or new content and leaves nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from crash_points import DIED, ENDINGS, PASSED, REFUSED, TORN, WRONG, crashes
from run_helpers import ScriptedEngine, SilentListener, TwoPartEngine, asking, case, failure, record, suite

from arvbench import files
from arvbench.disk import cannot_write
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.images.write import write_images
from arvbench.harness.quality.reference.make import ReferenceRequest, make_reference, needs_of
from arvbench.harness.run.runner import RunOptions, run_suite
from arvbench.harness.run.store import DAMAGED_NAME, RecordStore
from arvbench.harness.training.output import staged

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "here"


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def ids(store: RecordStore) -> list[str]:
    return [r.record_id for r in store.records()]


@pytest.mark.parametrize("ending", [*ENDINGS, TORN])
@pytest.mark.parametrize("cut", [b"", b'{"schema_vers'])
def test_the_store(folder, ending, cut):
    def prepare():
        store = RecordStore(emptied(folder))
        store.prepare()
        store.append(record("0"))
        store.path.write_bytes(store.path.read_bytes() + cut)

    line, torn = record("1").model_dump_json().encode(), 0
    for step, ended in crashes(prepare, lambda: RecordStore(folder).append(record("1")), ending):
        assert ended in (DIED, REFUSED, PASSED), step
        store = RecordStore(folder)
        store.prepare()
        stored = ids(store)
        assert stored in (["0"], ["0", "1"]) and (ended != PASSED or stored == ["0", "1"]), step
        store.append(record("2"))
        assert ids(store) == [*stored, "2"]
        aside = (folder / DAMAGED_NAME).read_bytes().splitlines() if (folder / DAMAGED_NAME).exists() else []
        half = [end for end in aside if end != cut]
        assert [end for end in aside if end == cut] == ([cut] if cut else []), "set aside once"
        assert names(folder) == sorted(["records.jsonl", *([DAMAGED_NAME] if aside else [])]), step
        assert not half or (half == [line[: (len(line) + 1) // 2]] and stored == ["0"] and ending == TORN), step
        torn += len(half)
    assert torn == (ending == TORN), "an append that ends in its middle, and no other, leaves half a line"


@pytest.mark.parametrize("ending", [*ENDINGS, TORN])
def test_the_runner(folder, ending):
    def run(folder=folder):
        store = RecordStore(folder)
        store.prepare()
        run_suite(suite(case("a")), store, ScriptedEngine(failure()), SilentListener(), options=RunOptions())

    for step, ended in crashes(lambda: emptied(folder), run, ending):
        assert ended != WRONG, step
        run()
        run()
        left = [name for name in names(folder) if ending != TORN or name != DAMAGED_NAME]
        assert len(ids(RecordStore(folder))) == 1 and left == ["records.jsonl"], step


@pytest.mark.parametrize("ending", [*ENDINGS, TORN])
def test_the_runner_between_the_parts_of_a_case(folder, ending):
    def run() -> list[str]:
        store = RecordStore(folder)
        store.prepare()
        engine = TwoPartEngine()
        run_suite(suite(asking("a")), store, engine, SilentListener(), options=RunOptions())
        return engine.parts

    halves = 0
    for step, ended in crashes(lambda: emptied(folder), run, ending):
        assert ended != WRONG, step
        store = RecordStore(folder)
        kept, recorded = (
            any(name.startswith(".result-") and name.endswith(".json") for name in names(folder)),
            ids(store),
        )
        expected = [] if recorded else ["quality a"] if kept else ["speed a", "quality a"]
        assert run() == expected and run() == [], step
        left = [name for name in names(folder) if ending != TORN or name != DAMAGED_NAME]
        assert len(ids(RecordStore(folder))) == 1 and left == ["records.jsonl"], step
        halves += kept and not recorded
    assert halves, "a runner that dies between the parts leaves the first"


def write_text(path: Path, text: str, block) -> None:
    try:
        with block(path) as part:
            files.write_all(part, text.encode())
    except OSError as error:
        raise cannot_write(path, error) from error


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("block", [files.replacing, files.claimed])
def test_a_file(folder, ending, block):
    path = folder / "x"

    def prepare():
        (emptied(folder) / "x").write_text("old")

    for step, ended in crashes(prepare, lambda: write_text(path, "new", block), ending):
        assert ended != WRONG and path.read_text() in ("old", "new"), step
        write_text(path, "newer", block)
        assert path.read_text() == "newer" and names(folder) == ["x"], step


def images(first: int, count: int = 3) -> TensorSource:
    return TensorSource(torch.arange(first, first + count * 12, dtype=torch.uint8).reshape(count, 3, 2, 2))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x"])
def test_samples(folder, name, ending, exchange, monkeypatch):
    if not exchange:
        if name != "x":
            pytest.skip("only folders are exchanged")
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path, old, new = folder / name, images(0).read(0, 3), images(100).read(0, 3)

    def prepare():
        write_images(emptied(folder) / name, images(0))

    for step, ended in crashes(prepare, lambda: write_images(path, images(100), replace=True), ending):
        assert ended != WRONG, step
        if exchange or ended != DIED:
            now = open_images(path).read(0, 3)
            assert torch.equal(now, old) or torch.equal(now, new), step
        else:
            assert path.exists() or (folder / ".x.old.part").is_dir(), step
        write_images(path, images(50), replace=True)
        assert torch.equal(open_images(path).read(0, 3), images(50).read(0, 3))
        assert [entry.name for entry in folder.iterdir()] == [name], step


@pytest.mark.parametrize("ending", ENDINGS)
def test_features(folder, ending):
    wanted = [(load_extractor("digits-cnn"), frozenset({"64"}))]
    source = TensorSource(load_digits_rgb().images_N3HW[:20], name="some")
    work = folder / "work"

    def scan():
        return FeaturePass(work=work).scan(source, wanted).features["digits-cnn"].features("64")

    emptied(folder)
    expected, finished = scan(), names(work)
    for step, ended in crashes(lambda: emptied(folder), scan, ending):
        assert ended != WRONG, step
        assert torch.equal(scan(), expected) and names(work) == finished, step


@pytest.mark.parametrize("ending", ENDINGS)
def test_references(folder, ending):
    source = TensorSource(load_digits_rgb().images_N3HW[:20], name="some")
    needs = needs_of(("digits-cnn",), load_extractor)
    features = FeaturePass()
    out = folder / "ref.npz"

    def make(force=True):
        make_reference(
            source, needs, ReferenceRequest(out=out, protocols=("digits-cnn",), force=force), features=features
        )

    emptied(folder)
    make()
    whole = out.read_bytes()

    def prepare():
        (emptied(folder) / "ref.npz").write_bytes(b"old")

    for step, ended in crashes(prepare, make, ending):
        assert ended != WRONG and out.read_bytes() in (b"old", whole), step
        make()
        assert out.read_bytes() == whole and names(folder) == ["ref.npz"], step


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_files_of_a_training(folder, ending):
    def train(text: str = "new"):
        with staged(folder) as stage:
            for name in ("a", "b"):
                (stage / name).write_text(text)

    def prepare():
        for name in ("a", "b"):
            (emptied(folder) if name == "a" else folder).joinpath(name).write_text("old")

    for step, ended in crashes(prepare, train, ending):
        assert ended != WRONG, step
        with pytest.raises(RuntimeError, match="fails"), staged(folder):
            raise RuntimeError("the next training fails, but first finishes the one before")
        found = {(folder / name).read_text() for name in ("a", "b")}
        assert len(found) == 1 and names(folder) == ["a", "b"], f"mixed at {step}"
