"""Images of a case, shared among processes by `run --share images`: together they are the whole, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import pytest
from engine_facts import facts
from run_helpers import SilentListener, write_suite

from arvbench.harness.cli import main
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.runner import run_suite
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import load_suite

IMAGES = 260
QUALITY = {"protocols": ["digits-cnn"], "reference": "digits", "images": IMAGES, "metrics": ["fid"], "bootstrap": 0}
CASE = {"weights": "demo", "threads": 1, "repeats": 1, "max_warmup": 1, "batch": 20, "model": "demo/detailflow"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "s.yaml"
    return write_suite(path, cases=[CASE | {"quality": QUALITY}])


@pytest.fixture(scope="module")
def made(suite, tmp_path_factory) -> Path:
    """Shards of two ranks; the second is drawn twice, which does nothing."""
    out = tmp_path_factory.mktemp("shards")
    for rank in ("0", "1", "1"):
        with mock.patch.dict("os.environ", RANK=rank, WORLD_SIZE="2"):
            assert main(["run", str(suite), "--engine", "torchrun", "--share", "images", "--out", str(out)]) == 0
    return out


@pytest.fixture
def shards(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


class Counting(SilentListener):
    """Notes how many images of a quality part are done at its first count."""

    first: int | None = None

    def case_event(self, case, event) -> None:
        if event.phase == "quality: samples" and self.first is None:
            self.first = event.done


def test_a_run_in_the_merged_folder_has_the_records_of_one_process_and_draws_nothing(suite, shards, tmp_path, capsys):
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 0
    assert (
        f"{IMAGES} images of demo/detailflow" in (said := capsys.readouterr().out) and "2 shard(s), each once" in said
    )
    found = []
    for name, first in (("whole", IMAGES), ("alone", 256)):
        store, listener = RecordStore(tmp_path / name), Counting()
        store.prepare()
        found.append(facts(run_suite(load_suite(str(suite)), store, LocalEngine(), listener)))
        assert listener.first == first, name
        assert sorted(path.name for path in store.folder.iterdir()) == ["records.jsonl"]
    assert found[0] == found[1]


def test_missing_and_doubled_images_of_a_case_are_listed_and_nothing_is_written(shards, tmp_path, capsys):
    first, second = sorted(shards.glob("shard-*/features/*/*"))
    (chunk,) = second.glob("chunk-*.safetensors")
    shutil.copy(chunk, first)
    chunk = first / "chunk-000000.safetensors"
    chunk.unlink()
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 1
    err = capsys.readouterr().err
    assert "demo/detailflow" in err and "missing: images 0..255" in err and f"doubled: images 256..{IMAGES - 1}" in err
    assert not (tmp_path / "whole").exists()


def test_shards_of_different_suites_are_no_whole(shards, tmp_path, capsys):
    """Each has a case that the other lacks, so that of both cases images are missing."""
    case = max(shards.glob("shard-*/features/*"))
    case.rename(case.with_name("demo-nar-of-another-suite"))
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 1
    said = capsys.readouterr().err
    assert "missing: images 0..255" in said and f"missing: images 256..{IMAGES - 1}" in said
    assert not (tmp_path / "whole").exists()


def test_shards_of_another_gpu_are_told_apart(shards, tmp_path, capsys):
    work = max(shards.glob("shard-*/features/*/*"))
    task = work / "task.txt"
    task.write_text(task.read_text().replace(" on cpu", " on NVIDIA H200"))
    work.rename(work.with_name("another-name"))
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 2
    assert "shards of different evaluations" in (err := capsys.readouterr().err) and "on NVIDIA H200" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "0/0"], "write k/n"),
        (["--shard", "3/2"], "write k/n"),
        ([], "--share images needs --shard K/N or --engine torchrun"),
        (["--engine", "ray", "--shard", "1/2"], "leave one away"),
        (["--shard", "1/2", "--models", "demo/nar"], "asks for quality"),
    ],
)
def test_a_share_that_cannot_be_is_refused(tmp_path, capsys, arguments, words):
    cases = [CASE | {"quality": QUALITY}, CASE | {"model": "demo/nar"}]
    suite = write_suite(tmp_path / "s.yaml", cases=cases)
    assert main(["run", str(suite), "--share", "images", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert words in (err := capsys.readouterr().err) and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_case_without_its_weights_is_named_and_the_next_one_is_drawn(tmp_path, capsys):
    cases = [CASE | {"quality": QUALITY | {"images": 16}, "weights": weights} for weights in ("/nowhere", "demo")]
    suite = write_suite(tmp_path / "s.yaml", cases=cases)
    request = ["run", str(suite), "--share", "images", "--shard", "1/1", "--out", str(tmp_path / "out")]
    assert main(request) == 1
    said = capsys.readouterr()
    assert (
        "failed: demo/detailflow" in said.err
        and "/nowhere" in said.err
        and "images 0..15 of demo/detailflow" in said.out
    )
