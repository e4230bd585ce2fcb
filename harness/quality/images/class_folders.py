"""Classes from the names of subfolders, where these names are evidence of classes.

Evidence     names that are words ("cat", "n01440764"), or numbers, of direct subfolders that hold all images
No evidence  names that say storage ("rank0", "part-3", "val"); numbered folders with running file numbers across them,
             as tools that put 1,000 files into each write them, or with equal file names in each, as processes that
             sample side by side write them. Labels are then unknown, unless the user says that folders are classes

The label of a numbered folder is its number. Words have no number of their own: their rank among the folders present
means nothing in another tree, so they are compared by name (`renumbered`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

import torch
from torch import Tensor

_STORAGE = re.compile(
    r"(rank|gpu|cuda|device|worker|proc|process|part|partition|shard|chunk|batch|split|job|task|node|host|dir|folder|"
    r"subset|seed|run|thread)s?[-_ .]?[0-9]+|train|val|valid|validation|test|images?|samples?|pngs?|jpe?gs?|data",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]{1,18}")


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
    """Return why folders look like storage; "" when they do not."""
    if all(_STORAGE.fullmatch(folder) for folder in members):
        return f"names such as {next(iter(members))} say where files lie"
    if not numbered:
        return ""
    if len({frozenset(stems) for stems in members.values()}) == 1:
        return "they are numbered, and each holds files of equal names"
    spans = [_span(members[folder]) for folder in sorted(members, key=int)]
    known = [span for span in spans if span is not None]
    if len(known) == len(spans) and all(low[1] < high[0] for low, high in pairwise(known)):
        return "they are numbered, and file numbers run on from one to the next"
    return ""


def _span(stems: Sequence[str]) -> tuple[int, int] | None:
    """Return the smallest and the largest number at the end of names; None when one ends in no number."""
    ends = [re.search(r"[0-9]{1,18}$", stem) for stem in stems]
    values = [int(end[0]) for end in ends if end is not None]
    return (min(values), max(values)) if len(values) == len(stems) else None


def renumbered(names: Sequence[str], others_M: Tensor, other_names: Sequence[str]) -> Tensor | None:
    """Return the labels of another set in the numbering of `names`; classes that are not among these get new numbers.

    Labels without names, on both sides, are numbers and stay. None when only one side has names: a name and a number
    cannot be compared.
    """
    if bool(names) != bool(other_names):
        return None
    if not names:
        return others_M
    places = {name: place for place, name in enumerate(names)}
    new = torch.tensor([places.setdefault(name, len(places)) for name in other_names])
    return new[others_M.cpu()]
