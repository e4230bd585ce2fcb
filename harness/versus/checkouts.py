"""Official repositories: which one a checkout is, and at which commit."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arvbench.errors import UserError
from arvbench.paths import printable, user_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """An official repository and the files by which its checkout is recognised."""

    name: str
    commit: str
    """Commit that our samplers were compared with, 7 digits."""
    files: tuple[str, ...]
    """Files below the import root that no other repository of the table has all of."""
    lacks: tuple[str, ...] = ()
    """Files that tell a fork from it."""
    folder: str = ""
    """Import root below the top of the checkout."""


REPOSITORIES: Mapping[str, Repository] = {
    "var": Repository(
        name="FoundationVision/VAR", commit="78b9539", files=("models/var.py", "models/basic_var.py", "dist.py")
    ),
    "mvar": Repository(name="OliverRensu/MVAR", commit="80768a1", files=("models/mvar.py", "models/basic_mvar.py")),
    "hmar": Repository(name="NVlabs/HMAR", commit="595a9df", files=("models/hmar.py", "models/mp.py", "attn")),
    "flexvar": Repository(
        name="jiaosiyu1999/FlexVAR", commit="04462cb", files=("models/flexvar.py", "models/vq_llama.py")
    ),
    "llamagen": Repository(
        name="FoundationVision/LlamaGen",
        commit="ce98ec4",
        files=("autoregressive/models/gpt.py", "tokenizer/tokenizer_image/vq_model.py", "autoregressive/serve"),
    ),
    "nar": Repository(
        name="ThisisBillhe/NAR",
        commit="225c1fb",
        files=("autoregressive/models/gpt.py", "tokenizer/tokenizer_image/vq_model.py"),
        lacks=("autoregressive/serve",),
        folder="NAR-images",
    ),
}
"""Family -> its official repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A checkout of an official repository."""

    repository: str
    root: Path
    """Folder to import from."""
    commit: str
    """Commit that is checked out; "" for a folder without git."""
    dirty: bool
    """True when files differ from the commit."""
    notice: str
    """Warning about a commit that our samplers were not compared with; "" for the known one."""


def upstream_of(family: str, folder: Path) -> Upstream:
    """Return the checkout of a family's official repository in `folder`.

    Raises UserError for a family without one, a folder that is none, and the checkout of another repository; the error
    names the commit that is there and the one that is expected.
    """
    if family not in REPOSITORIES:
        raise UserError(f"no official code of the family {family} can be run; known: {', '.join(REPOSITORIES)}")
    wanted, folder = REPOSITORIES[family], user_path(folder)
    if not folder.is_dir():
        raise UserError(f"--upstream-root {printable(folder)} is not a folder; give a checkout of {wanted.name}")
    commit = _git(folder, "rev-parse", "HEAD")
    root = _import_root(wanted, folder)
    if root is None:
        found = next((other.name for other in REPOSITORIES.values() if _import_root(other, folder)), "no known model")
        at = f" at {commit[:7]}" if commit else ""
        raise UserError(
            f"{printable(folder)} has the code of {found}{at}; {family} needs {wanted.name} at {wanted.commit}"
        )
    notice = ""
    if commit[: len(wanted.commit)] != wanted.commit:
        there = commit[:7] or "an unknown commit"
        notice = f"{wanted.name} is at {there}; our samplers were compared with {wanted.commit}"
    return Upstream(
        repository=wanted.name,
        root=root,
        commit=commit,
        dirty=bool(commit and _git(folder, "status", "--porcelain", "--untracked-files=no")),
        notice=notice,
    )


def _import_root(repository: Repository, folder: Path) -> Path | None:
    """Return the folder to import from: `folder` or the part of it that the repository names."""
    for root in dict.fromkeys((folder, folder / repository.folder)):
        there = all((root / name).exists() for name in repository.files)
        if there and not any((root / name).exists() for name in repository.lacks):
            return root
    return None


def _git(folder: Path, *arguments: str) -> str:
    """Return what git says in `folder`; "" where there is no git or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    return ""
