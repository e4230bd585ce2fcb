"""Classes are read off subfolders only where their names are evidence, and compared by name."""

from __future__ import annotations

import pytest
import torch

from arvbench.harness.quality.images.class_folders import classes_of_folders, renumbered


def files(*folders: str, start: int = 0, step: int = 0, count: int = 3) -> list[str]:
    """Names of `count` files in each folder, numbered from `start` on, `step` higher in each next folder."""
    return [
        f"{folder}/{start + place * step + n:06d}.png" for place, folder in enumerate(folders) for n in range(count)
    ]


@pytest.mark.parametrize(
    "names",
    [
        files("00000", "00001", "00002", step=3),
        files("0", "1", "2", "10", step=100),
        files("00000", "01000", step=1000),
        files("0", "1"),
        files("rank0", "rank1", step=7),
        files("gpu-0", "gpu-1", "gpu-2"),
        files("Part_1", "part_2"),
        files("shard.0001", "shard.0002"),
        files("train", "val"),
        files("images", "data"),
    ],
    ids=lambda names: "+".join(dict.fromkeys(name.partition("/")[0] for name in names)),
)
def test_storage_is_not_taken_for_classes_unless_the_user_says_so(names: list[str]) -> None:
    found = classes_of_folders(names)
    assert found.labels_N is None and "are not taken for classes: " in found.note
    stated = classes_of_folders(names, stated=True)
    assert stated.labels_N is not None and len(stated.labels_N) == len(names)


@pytest.mark.parametrize(
    ("names", "labels", "class_names"),
    [
        (files("cat", "dog"), [0, 0, 0, 1, 1, 1], ("cat", "dog")),
        (files("n01440764", "n01443537", step=50), [0, 0, 0, 1, 1, 1], ("n01440764", "n01443537")),
        (["3/a_12.png", "3/b_1.png", "7/c_5.png", "7/d_30.png"], [3, 3, 7, 7], ()),
        (["0/x.png", "1/y.png", "1/z.png"], [0, 1, 1], ()),
    ],
)
def test_names_of_classes_and_scattered_numbers_are_evidence(
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
    assert matched is not None and matched.tolist() == [3, 0, 1, 2, 2]
    assert renumbered((), reference_M, ()) is reference_M
    assert renumbered(("cat",), reference_M, ()) is None and renumbered((), reference_M, ("cat",)) is None
