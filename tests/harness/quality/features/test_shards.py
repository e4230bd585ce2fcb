"""Shards of an evaluation: together they are the whole, bit for bit, or it is said what is missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from arvbench.errors import UserError
from arvbench.harness.cli import main
from arvbench.harness.quality.features.shards import check_shards, shard_folders
from arvbench.harness.run.ranks import this_rank

COUNT = 256 * 4 + 10
REQUEST = ("--reference", "digits", "--protocol", "digits-cnn", "--bootstrap", "0")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    np.savez(path, arr_0=np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), "uint8"))
    return path


@pytest.fixture(scope="module")
def made(samples, tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("shards")
    for k in (1, 2, 3):
        assert main(["eval", str(samples), *REQUEST, "--work", str(work), "--shard", f"{k}/3"]) == 0
    return work


@pytest.fixture
def shards(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


def numbers(capsys, *arguments: object) -> list[dict]:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), *REQUEST, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_merged_shards_give_the_numbers_of_one_process_bit_for_bit(samples, shards, tmp_path, capsys):
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 0
    assert f"{COUNT} images of 3 shard(s)" in capsys.readouterr().out
    alone = numbers(capsys, samples, "--work", tmp_path / "alone")
    assert numbers(capsys, samples, "--work", tmp_path / "whole") == alone
    for path in (tmp_path / "alone").glob("chunk-*"):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


def test_missing_images_are_listed_and_nothing_is_written(shards, tmp_path, capsys):
    next(shards.glob("shard-00002-*/chunk-000001*")).unlink()
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 1
    assert "missing: images 256..511" in capsys.readouterr().err and not (tmp_path / "whole").exists()


def test_a_whole_shard_that_is_missing_is_listed_as_its_images(shards, tmp_path, capsys):
    folders = sorted(map(str, shards.iterdir()))[:2]
    assert main(["merge", *folders, "--out", str(tmp_path / "whole")]) == 1
    assert f"..{COUNT - 1}" in capsys.readouterr().err


def test_doubled_images_are_listed_with_both_places(shards, tmp_path, capsys):
    first, second = sorted(shards.iterdir())[:2]
    shutil.copy(first / "chunk-000000.safetensors", second)
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 1
    assert "doubled: images 0..255 in" in capsys.readouterr().err


def test_a_changed_byte_is_found(shards, tmp_path, capsys):
    path = next(shards.glob("shard-00001-*/chunk-000000*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 1
    assert "damaged:" in capsys.readouterr().err


def test_shards_of_other_hardware_are_told_apart(shards, tmp_path, capsys):
    note = next(shards.glob("shard-00003-*/shard.json"))
    content = json.loads(note.read_text())
    content["machine"] = {"host": "other", "cpu": "Another CPU", "gpu": None}
    note.write_text(json.dumps(content))
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 0
    printed = capsys.readouterr()
    assert "machine other: Another CPU" in printed.out and "2 kinds of hardware" in printed.err


def test_shards_of_different_evaluations_are_refused(shards, tmp_path, capsys):
    task = next(shards.glob("shard-00002-*/task.txt"))
    task.write_text(task.read_text().replace(f"images {COUNT}", "images 9"))
    assert main(["merge", str(shards), "--out", str(tmp_path / "whole")]) == 2
    assert "shards of different evaluations" in capsys.readouterr().err


@pytest.mark.parametrize("note", ["", "[]", '{"images": 0}'])
def test_a_note_that_is_none_is_refused(shards, note):
    next(shards.glob("shard-00002-*/shard.json")).write_text(note)
    with pytest.raises(UserError, match="is not the note of a shard"):
        check_shards(shard_folders([shards]))


def test_folders_that_are_no_shards_are_refused(shards, tmp_path):
    with pytest.raises(UserError, match="is no shard and has none"):
        shard_folders([tmp_path / "nothing"])
    with pytest.raises(UserError, match="named twice"):
        shard_folders([shards, shards])


def test_a_folder_in_use_is_not_merged_into(shards, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert main(["merge", str(shards), "--out", str(tmp_path / "mine")]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_LOCALID": "1"},
        {"SLURM_ARRAY_TASK_ID": "11", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10"},
    ],
)
def test_the_rank_is_the_shard(variables, samples, made, tmp_path):
    assert str(this_rank(variables).shard) == "2/3"
    with mock.patch.dict(os.environ, variables):
        assert main(["eval", str(samples), *REQUEST, "--work", str(tmp_path), "--engine", "torchrun"]) == 0
    (own,) = tmp_path.iterdir()
    theirs = made / own.name
    assert {p.name: p.read_bytes() for p in own.iterdir()} == {p.name: p.read_bytes() for p in theirs.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--shard", "0/0"], {}, "write k/n"),
        (["--shard", "3/2"], {}, "write k/n"),
        (["--engine", "torchrun"], {}, "start it by torchrun or srun"),
        (["--engine", "torchrun"], {"RANK": "2", "WORLD_SIZE": "2"}, "is no rank"),
        (["--engine", "torchrun"], {"RANK": "x", "WORLD_SIZE": "2"}, "is not a number"),
        (["--engine", "torchrun", "--shard", "1/2"], {"RANK": "0", "WORLD_SIZE": "2"}, "leave one away"),
        (["--engine", "slurm"], {}, "no engine of an evaluation 'slurm'"),
    ],
)
def test_a_shard_that_cannot_be_is_refused(samples, tmp_path, capsys, arguments, variables, words):
    with mock.patch.dict(os.environ, variables):
        assert main(["eval", str(samples), *REQUEST, "--work", str(tmp_path / "w"), *arguments]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_a_shard_without_a_work_folder_is_refused(samples, capsys):
    assert main(["eval", str(samples), *REQUEST, "--shard", "1/2"]) == 2
    assert "--work" in capsys.readouterr().err
