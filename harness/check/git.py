"""A git checkout, read by git's own commands; worktrees of it that leave no trace.

Arguments are lists, never the text of a shell. No hook of the user's runs, and nothing is written into the checkout but
the entry of a worktree in its .git, which is gone at the end. One that a killed process left has our name and a folder
that no process holds: the next check removes both.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arvbench.errors import HostError, UserError, shown
from arvbench.files import SCRATCH_NAME, remove_dead_in
from arvbench.harness.check.programs import ProgramError, output_of

_OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE")
"""Variables that git sets for hooks; a check that a hook starts would read another repository by them."""
_WORKTREE = re.compile(r"arvbench-side-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Checkout:
    """The folder of a git checkout, which may itself be a linked worktree."""

    top: Path

    def commit(self, ref: str) -> str:
        """Return the commit that a branch, tag, id or other name of one stands for. Raises UserError."""
        if not ref or ref.startswith("-") or not ref.isprintable():
            raise UserError(f"{shown(ref)} names no commit; give a branch, a tag or an id, such as main or HEAD~1")
        with contextlib.suppress(ProgramError):
            return self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
        hint = f"see `git -C {self.top} branch --all`"
        with contextlib.suppress(ProgramError):
            self._git("rev-parse", "--verify", "--quiet", f"origin/{ref}^{{commit}}")
            hint = f"did you mean origin/{ref}?"
        with contextlib.suppress(ProgramError):
            if self._git("rev-parse", "--is-shallow-repository").strip() == "true":
                hint += "; this clone is shallow: git fetch --unshallow"
        raise UserError(f"no commit {shown(ref)} in the checkout {self.top}; {hint}")

    def order_of(self, commits: Sequence[str]) -> list[str]:
        """Return commits, given by whole ids, in an order that has every ancestor before its descendants.

        Raises UserError for a commit that the checkout does not have.
        """
        for commit in commits:
            if self.commit(commit) != commit:
                raise UserError(f"{shown(commit)} is no whole id of a commit")
        listed = self._git("rev-list", "--topo-order", "--reverse", *commits).split()
        return [commit for commit in listed if commit in set(commits)]

    def dirty(self) -> bool:
        """Return whether files differ from the commit, or are new."""
        return bool(self._git("status", "--porcelain", "-z"))

    def files(self, folder: Path) -> list[Path]:
        """Return the files below `folder` as they are now, new ones included, without those that git ignores."""
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", f":(literal){folder}")
        paths = [self.top / name for name in listed.split("\0") if name]
        return [path for path in dict.fromkeys(paths) if path.is_file()]

    @contextlib.contextmanager
    def worktree(self, commit: str, scratch: Path) -> Iterator[Checkout]:
        """Yield a worktree of a commit in a folder of `files.scratch_folder`; at the end git knows nothing of it."""
        path = scratch.resolve() / f"arvbench-side-{secrets.token_hex(4)}"
        try:
            try:
                self._git("worktree", "add", "--quiet", "--detach", str(path), commit)
            except ProgramError as error:
                raise HostError(f"git cannot check {commit[:12]} out to {path}: {error}") from error
            yield Checkout(path)
        finally:
            self._forget(path)

    def clear_left(self) -> None:
        """Remove the worktrees that killed checks left, with their scratch folders; those of living ones stay."""
        for path in self._worktrees():
            scratch = path.parent
            if _WORKTREE.fullmatch(path.name) and SCRATCH_NAME.fullmatch(scratch.name):
                remove_dead_in(scratch.parent, SCRATCH_NAME)
                if not path.exists():
                    self._forget(path)

    def _worktrees(self) -> list[Path]:
        lines = self._git("worktree", "list", "--porcelain").splitlines()
        return [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]

    def _forget(self, path: Path) -> None:
        """Remove a worktree, also a locked one (git locks it while it is made) and one whose folder is gone."""
        # What git does not know needs no removal; what it cannot remove, the next check tries again.
        with contextlib.suppress(ProgramError):
            self._git("worktree", "remove", "--force", "--force", str(path))

    def _git(self, *arguments: str) -> str:
        return _git(self.top, *arguments)


def checkout_of(package: Path) -> Checkout:
    """Return the checkout whose src/ holds a package. Raises UserError for one outside any."""
    remedy = (
        "--against compares commits of a checkout: run the arvbench of a clone (pip install --editable .), or compare "
        "with a stored baseline (--baseline FILE)"
    )
    try:
        top = Path(_git(package, "rev-parse", "--show-toplevel").rstrip("\n"))
    except ProgramError as error:
        raise UserError(f"{package} is not in a git checkout ({error}); {remedy}") from error
    inside = top / "src" / package.name
    if not (inside.exists() and inside.samefile(package)):
        raise UserError(f"{package} is not the source of the checkout {top}; {remedy}")
    return Checkout(top)


def checkout_at(folder: Path) -> Checkout:
    """Return the checkout that a folder is in. Raises UserError for one outside any."""
    try:
        return Checkout(Path(_git(folder, "rev-parse", "--show-toplevel").rstrip("\n")))
    except ProgramError as error:
        raise UserError(f"{folder} is not in a git checkout ({error})") from error


def _git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints. Raises ProgramError, and HostError where there is no git."""
    quiet = ["-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false", "--no-optional-locks"]
    environment = {key: value for key, value in os.environ.items() if key not in _OF_ANOTHER_REPOSITORY}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        return output_of(["git", "-C", str(folder), *quiet, *arguments], environment)
    except FileNotFoundError:
        raise HostError("git is not installed, and commits are read with it") from None
