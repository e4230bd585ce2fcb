"""Classes from the names of subfolders, where these names are evidence of classes.

Evidence     names that are words ("cat") or small numbers of direct subfolders that hold all images, with file names
             that belong to one folder each; WordNet ids ("n01440764"), whatever the files are called
No evidence  names that count ("rank0", "epoch_3", dates, hash prefixes) or say storage ("val", "real"); file names that
             several folders share, as processes that sample side by side write them; file numbers that run on from
             folder to folder, as tools that put 1,000 files into each write them, or that follow from the folder's
             place (image i in folder i mod K). Labels are then unknown, unless the user says that folders are classes

The label of a numbered folder is its number. Words have no number of their own: their rank among the folders present
means nothing in another tree, so they are compared by name (`renumbered`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

_WORDNET = re.compile(r"n[0-9]{8}")
_CLASS_COUNTER = re.compile(r"(class|label|cls|category)[-_ .]?#", re.IGNORECASE)
"""Names that count classes, with "#" for the number."""
_STORAGE = re.compile(
    r"train(ing)?|val(id(ation)?)?|test(ing)?|images?|samples?|pngs?|jpe?gs?|data|rest|other|misc|tmp|real|fake|gen(erated)?|"
    r"synthetic|ours|baseline|reference|output|results?",
    re.IGNORECASE,
)
_HASH_PREFIX = re.compile(r"[0-9a-f]{1,4}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_MOST_CLASSES = 1_000_000
"""Numbers of folders from here on are dates, seeds or job numbers."""
_SHARED = 0.5
"""Share of the smaller folder's file names that another folder has too, from which on names are counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderClasses:
    """Classes of N images, or the reason why they are unknown."""

    labels_N: Tensor | None = None
    """(N,) int64."""
    names: tuple[str, ...] = ()
    """Names of the classes 0, 1 ...; empty when the labels are numbers of their own."""
    note: str = ""


def classes_of_folders(files: Sequence[str], *, stated: bool = False) -> FolderClasses:
    """Read classes off the relative names of N images; `stated`: the user says that the subfolders are classes."""
    parents = [PurePosixPath(name).parent for name in files]
    members: dict[str, list[str]] = {}
    for parent, name in zip(parents, files, strict=True):
        members.setdefault(parent.as_posix(), []).append(PurePosixPath(name).stem)
    folders = sorted(members)
    if len(folders) < 2 or any(len(parent.parts) != 1 for parent in parents):
        return FolderClasses()
    numbers = [int(folder) for folder in folders if _NUMBER.fullmatch(folder)]
    numbered = len(set(numbers)) == len(folders)
    if not stated and (reason := _storage(members, numbered=numbered)):
        return FolderClasses(note=f"the {len(folders)} subfolders are not taken for classes: {reason}")
    classes = dict(zip(folders, numbers if numbered else range(len(folders)), strict=True))
    rule = "numbers" if numbered else "names"
    return FolderClasses(
        labels_N=torch.tensor([classes[parent.as_posix()] for parent in parents]),
        names=() if numbered else tuple(folders),
        note=f"labels are the {rule} of {len(folders)} subfolders",
    )


def _storage(members: Mapping[str, Sequence[str]], *, numbered: bool) -> str:
    """Return why folders look like storage; "" when they do not. `members`: names of files by folder, no endings."""
    if all(map(_WORDNET.fullmatch, members)):
        return ""
    if reason := _names_that_count(members, numbered=numbered):
        return reason
    folders = sorted(members, key=int) if numbered else sorted(members)
    stems = [members[folder] for folder in folders]
    if any(_share(set(one), set(other)) >= _SHARED for one, other in pairwise(stems)):
        return "they hold files of equal names"
    ends = [_numbers(names) for names in stems]
    if any(numbers is None for numbers in ends):
        return ""
    known = [numbers for numbers in ends if numbers is not None]
    if all(max(one) < min(other) for one, other in pairwise(known)):
        return "their file numbers run on from one to the next"
    residues = [{number % len(known) for number in numbers} for numbers in known]
    alone = all(len(residue) == 1 for residue in residues) and len(set.union(*residues)) == len(known)
    if alone and all(len(numbers) > 1 for numbers in known):
        return f"the number of a file is that of its folder modulo {len(known)}"
    return ""


def _names_that_count(members: Mapping[str, Sequence[str]], *, numbered: bool) -> str:
    """Return why the names of folders are counters, hashes or words for storage; "" when they are not."""
    if numbered:
        return f"{max(map(int, members))} is no number of a class" if max(map(int, members)) >= _MOST_CLASSES else ""
    patterns = Counter(re.sub(r"[0-9]+", "#", folder) for folder in members)
    pattern, count = max(((p, c) for p, c in patterns.items() if "#" in p), key=lambda pair: pair[1], default=("", 0))
    if count > 1 and not _CLASS_COUNTER.fullmatch(pattern) and pattern != "#":
        return f"names such as {next(name for name in members if re.sub(r'[0-9]+', '#', name) == pattern)} count"
    if (
        len({*map(len, members)}) == 1
        and all(map(_HASH_PREFIX.fullmatch, members))
        and all(stem.startswith(folder) for folder, stems in members.items() for stem in stems)
    ):
        return "they are named by the first letters of their files"
    if storage := [folder for folder in members if _STORAGE.fullmatch(folder)]:
        return f"{storage[0]} says where files lie"
    return ""


def _share(one: set[str], other: set[str]) -> float:
    return len(one & other) / min(len(one), len(other))


def _numbers(stems: Sequence[str]) -> list[int] | None:
    """Return the numbers at the end of names; None when one ends in no number."""
    ends = [re.search(r"[0-9]{1,18}$", stem) for stem in stems]
    found = [int(end[0]) for end in ends if end is not None]
    return found if len(found) == len(stems) else None


class Renumbered(NamedTuple):
    """Labels of a set in the numbering of another set."""

    labels_M: Tensor
    names: tuple[str, ...]
    """Names of the classes of both sets."""


def renumbered(names: Sequence[str], others_M: Tensor, other_names: Sequence[str]) -> Renumbered | None:
    """Return the labels of another set in the numbering of `names`; classes that are not among these follow them.

    Labels without names, on both sides, are numbers and stay. None when only one side has names: a name and a number
    cannot be compared.
    """
    if bool(names) != bool(other_names):
        return None
    if not names:
        return Renumbered(others_M, ())
    places = {name: place for place, name in enumerate(names)}
    new = torch.tensor([places.setdefault(name, len(places)) for name in other_names])
    return Renumbered(new[others_M.cpu()], tuple(places))
