"""The two sides of a check, each as a package to run: the code under test of one commit under the harness of head.

A package is this program's own, with the folders `adapters` (weights of the demo models included) and `kernels` of its
side. Both are copies in a scratch folder, so that an edit in the meantime changes neither side, and both lie on equal
terms. A side has an environment of its own where its dependency files differ from those of the running program.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import arvbench
from arvbench.disk import cannot_write
from arvbench.errors import UserError
from arvbench.files import scratch_folder
from arvbench.harness.check.git import Checkout, checkout_of
from arvbench.harness.check.programs import ProgramError, output_of
from arvbench.harness.machine.processes import Python
from arvbench.harness.machine.source import digest_of_source
from arvbench.results.verdict import Side

UNDER_TEST = ("adapters", "kernels")
"""Folders of the package that a side brings along."""
_HARNESS = ("harness", "reports", "results")
WORKING_TREE = "working tree"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltSide:
    """A side that is ready to run."""

    side: Side
    python: Python

    def __str__(self) -> str:
        """Return the name for a message, with its commit."""
        commit = (self.side.commit or "")[:12]
        state = f"{commit} with changes" if self.side.dirty else commit
        return f"{self.side.name} ({state})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """Source of a side: a checkout at a commit, with or without changes."""

    name: str
    checkout: Checkout
    commit: str
    dirty: bool


@contextlib.contextmanager
def built_sides(
    against: str, head: str | None = None, *, package: Path | None = None
) -> Iterator[tuple[BuiltSide, BuiltSide]]:
    """Yield base, the commit `against`, and head: the checkout of this program as it is, or a commit.

    Nothing of them is left when the block ends. `package` takes the place of this program's own. Raises UserError for a
    package outside a checkout, an unknown commit, and one that does not build.
    """
    checkout = checkout_of(package or Path(arvbench.__file__).parent)
    commits = checkout.commit(against), checkout.commit(head or "HEAD")
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(scratch_folder())
            checkout.clear_left()
            base = _tree(against, commits[0], stack.enter_context(checkout.worktree(commits[0], scratch)))
            if head is None:
                other = _Tree(name=WORKING_TREE, checkout=checkout, commit=commits[1], dirty=checkout.dirty())
            else:
                other = _tree(head, commits[1], stack.enter_context(checkout.worktree(commits[1], scratch)))
            built = _build(base, checkout, scratch / "base"), _build(other, checkout, scratch / "head")
        except OSError as error:
            raise cannot_write(error.filename or "a scratch folder", error) from error
        yield built


def _tree(name: str, commit: str, checkout: Checkout) -> _Tree:
    return _Tree(name=name, checkout=checkout, commit=commit, dirty=False)


def _build(tree: _Tree, running: Checkout, target: Path) -> BuiltSide:
    """Make the package of a side in `target`, with the interpreter that it needs."""
    package = target / "arvbench"
    package.mkdir(parents=True)
    sources = running.top / "src" / "arvbench"
    for path in running.files(sources):
        if path.parent == sources:
            shutil.copyfile(path, package / path.name)
    try:
        for folder in _HARNESS:
            _copy(running, folder, package)
        for folder in UNDER_TEST:
            _copy(tree.checkout, folder, package)
        executable = _interpreter(tree, running, target / "environment")
        output_of([executable, "-P", "-m", "compileall", "-q", *(str(package / folder) for folder in UNDER_TEST)])
    except ProgramError as error:
        raise UserError(f"{tree.name} ({tree.commit[:12]}) does not build: {error}") from error
    side = Side(name=tree.name, commit=tree.commit, dirty=tree.dirty, source_sha256=digest_of_source(package))
    return BuiltSide(side=side, python=Python(executable=executable, package_root=target))


def _copy(checkout: Checkout, folder: str, package: Path) -> None:
    """Copy a folder of a checkout's package, as git lists it. Raises ProgramError where the checkout has none."""
    # In a checkout, src/arvbench has links to the folders.
    source = (checkout.top / "src" / "arvbench" / folder).resolve()
    if not source.is_dir() or not source.is_relative_to(checkout.top):
        raise ProgramError(f"its package has no folder {folder}")
    for path in checkout.files(source):
        target = package / folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _interpreter(tree: _Tree, running: Checkout, folder: Path) -> str:
    """Return the interpreter of this program; one of a new environment where the tree's dependencies are others.

    Raises ProgramError when they cannot be installed.
    """
    wanted = _dependencies(tree.checkout.top)
    if wanted == _dependencies(running.top):
        return sys.executable
    requirements, constraints = wanted
    output_of([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    executable = str(folder / "bin" / "python")
    if requirements:
        listed = folder / "constraints.txt"
        listed.write_text(constraints)
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--constraint", str(listed)]
        output_of([sys.executable, "-m", "pip", "--python", executable, "install", *quiet, "--", *requirements])
    return executable


def _dependencies(top: Path) -> tuple[tuple[str, ...], str]:
    """Return what a tree requires, and the text of its constraints."""
    try:
        project = tomllib.loads((top / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        requirements = tuple(sorted(map(str, project["dependencies"])))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ProgramError(f"pyproject.toml states no dependencies ({type(error).__name__}: {error})") from error
    constraints = top / "constraints.txt"
    return requirements, constraints.read_text(encoding="utf-8") if constraints.is_file() else ""
