"""A tiny git checkout in the form of this one: a package of five folders, and dependency files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PYPROJECT = '[project]\nname = "tiny"\ndependencies = []\n'
FOLDERS = ("harness", "adapters", "kernels", "reports", "results")


def git(folder: Path, *arguments: str) -> str:
    """Run git with an identity, without the configuration of this machine."""
    names = {f"GIT_{role}_{key}": "nobody@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    environment = os.environ | names | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    command = ["git", "-C", str(folder), "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def commit(top: Path, message: str = "change") -> str:
    """Commit all there is; return its id."""
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(top, "rev-parse", "HEAD").strip()


def make_checkout(top: Path) -> Path:
    """Make a checkout with two commits, whose samplers differ; return its package."""
    package = top / "src" / "arvbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0"\n')
    for folder in FOLDERS:
        (top / folder).mkdir()
        (top / folder / "__init__.py").write_text(f"NAME = '{folder} of the first commit'\n")
        (package / folder).symlink_to(Path("..") / ".." / folder)
    (top / "pyproject.toml").write_text(PYPROJECT)
    (top / ".gitignore").write_text("__pycache__/\nresults/runs/\n")
    git(top, "init", "--quiet")
    commit(top, "first")
    for folder in FOLDERS:
        (top / folder / "__init__.py").write_text(f"NAME = '{folder} of the second commit'\n")
    commit(top, "second")
    return package
