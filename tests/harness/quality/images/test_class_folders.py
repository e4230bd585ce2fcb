"""Classes are read off subfolders only where their names are evidence, and compared by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from arvbench.errors import UserError
from arvbench.harness.quality.images.class_folders import classes_of_folders, renumbered
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.source import Provenance
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.images.write import write_images


def files(*folders: str, start: int = 0, step: int = 0, count: int = 3) -> list[str]:
    """Names of `count` files in each folder, numbered from `start` on, `step` higher in each next folder."""
    return [
        f"{folder}/{start + place * step + n:06d}.png" for place, folder in enumerate(folders) for n in range(count)
    ]


COUNTERS = (
    "rank", "gpu-", "Part_", "shard.", "epoch_", "step", "sampler", "gpu-node", "slurm-", "trial", "machine", "cfg",
    "iter", "stage", "fold", "out", "r", "2024-01-0", "seed=", "x", "v1.",
)  # fmt: skip
SCATTERED = [[f"{n * 7919 % 1000 + shift}" for n in range(20)] for shift in (0, 1000)]
"""File numbers of two folders that neither run on nor are shared."""


@pytest.mark.parametrize(
    "names",
    [
        files("00000", "00001", "00002", step=3),
        files("0", "1", "2", "10", step=100),
        files("00000", "01000", step=1000),
        files("0", "1"),
        [*files("0", count=51), *files("1", count=50)],
        [*files("3", count=40), *files("7", start=10, count=40)],
        [f"{n % 4}/{n:06d}.png" for n in range(80)],
        [f"{n % 3 + 5}/{n}.png" for n in range(30)],
        [f"{n % 256:02x}/{n % 256:02x}{n:04x}.png" for n in range(2000)],
        [f"202401{day:02d}/{n * day * 7919 % 1000}_{day}.png" for day in range(1, 4) for n in range(20)],
        *(files(*(f"{counter}{place}" for place in range(4)), step=7) for counter in COUNTERS),
        *(
            [f"{folder}/{number}.png" for folder, numbers in zip(pair, SCATTERED, strict=True) for number in numbers]
            for pair in (("train", "val"), ("images", "data"), ("real", "fake"), ("cat", "test"))
        ),
        [*files("rank0", "rank1", "rank2", step=9), *files("rest", start=900)],
        files("alpha", "beta"),
        files("alpha", "beta", step=3),
    ],
    ids=lambda names: "+".join(list(dict.fromkeys(name.partition("/")[0] for name in names))[:4]),
)
def test_storage_is_not_taken_for_classes_unless_the_user_says_so(names: list[str]) -> None:
    found = classes_of_folders(names)
    assert found.labels_N is None and "are not taken for classes: " in found.note
    stated = classes_of_folders(names, stated=True)
    assert stated.labels_N is not None and len(stated.labels_N) == len(names)


@pytest.mark.parametrize(
    ("names", "labels", "class_names"),
    [
        (["cat/a.png", "cat/b.png", "dog/c.png"], [0, 0, 1], ("cat", "dog")),
        (["cat/5.png", "cat/90.png", "dog/31.png", "dog/7.png"], [0, 0, 1, 1], ("cat", "dog")),
        (files("n01440764", "n01443537"), [0, 0, 0, 1, 1, 1], ("n01440764", "n01443537")),
        (files("n01440764", "n01443537", step=50), [0, 0, 0, 1, 1, 1], ("n01440764", "n01443537")),
        (["class_0/x9.png", "class_1/y4.png", "class_1/z8.png"], [0, 1, 1], ("class_0", "class_1")),
        (["3/a_12.png", "3/b_1.png", "7/c_5.png", "7/d_30.png"], [3, 3, 7, 7], ()),
        (["0/x.png", "1/y.png", "1/z.png"], [0, 1, 1], ()),
    ],
)
def test_names_of_classes_with_files_of_their_own_are_evidence(
    names: list[str], labels: list[int], class_names: tuple[str, ...]
) -> None:
    found = classes_of_folders(names)
    assert found.labels_N is not None
    assert (found.labels_N.tolist(), found.names) == (labels, class_names)


@pytest.mark.parametrize("names", [["a.png", "b.png"], files("one"), ["a/b/x.png", "a/c/y.png"], ["a/x.png", "y.png"]])
def test_images_outside_direct_subfolders_have_no_classes(names: list[str]) -> None:
    assert classes_of_folders(names, stated=True).labels_N is None


def test_classes_of_two_trees_are_matched_by_name() -> None:
    reference_M = torch.tensor([0, 1, 2, 3, 3])
    matched = renumbered(("cat", "dog", "frog"), reference_M, ("bird", "cat", "dog", "frog"))
    assert matched is not None and matched.labels_M.tolist() == [3, 0, 1, 2, 2]
    assert matched.names == ("cat", "dog", "frog", "bird")
    unnamed = renumbered((), reference_M, ())
    assert unnamed is not None and unnamed.labels_M is reference_M and unnamed.names == ()
    assert renumbered(("cat",), reference_M, ()) is None and renumbered((), reference_M, ("cat",)) is None


@pytest.mark.parametrize("target", ["out.npz", "out.safetensors", "out"])
def test_names_of_classes_are_written_and_read_with_the_images(target: str, tmp_path: Path) -> None:
    source = TensorSource(torch.zeros(3, 3, 8, 9, dtype=torch.uint8), labels_N=torch.tensor([1, 0, 1]))
    source.class_names = ("bird", "cät")
    write_images(tmp_path / target, source)
    again = open_images(tmp_path / target)
    assert again.labels_N is not None
    assert (again.labels_N.tolist(), tuple(again.class_names)) == ([1, 0, 1], ("bird", "cät"))


def test_ranks_that_an_earlier_version_wrote_without_names_are_not_read(tmp_path: Path) -> None:
    note = Provenance(note="labels are the sorted names of 4 subfolders")
    source = TensorSource(torch.zeros(2, 3, 8, 9, dtype=torch.uint8), labels_N=torch.tensor([0, 3]), provenance=note)
    write_images(tmp_path / "old.npz", source)
    again = open_images(tmp_path / "old.npz")
    assert again.labels_N is None and "ranks of names" in again.provenance.note


@pytest.mark.parametrize("names", [["a"], ["a", "a", "b"], "ab", [1, 2], {"a": 0}])
def test_names_that_do_not_fit_the_labels_are_refused(names: object, tmp_path: Path) -> None:
    description = json.dumps({"format": 1, "provenance": {}, "class_names": names})
    images, labels = np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1])
    np.savez(tmp_path / "x.npz", arr_0=images, labels=labels, arvbench=np.frombuffer(description.encode(), np.uint8))
    with pytest.raises(UserError, match=r"x\.npz.*class"):
        open_images(tmp_path / "x.npz")
