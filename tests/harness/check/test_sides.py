"""Sides of a check: which source runs, what is refused, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkout import PYPROJECT, commit, git

import arvbench
from arvbench.errors import HostError, UserError
from arvbench.harness.check.sides import WORKING_TREE, BuiltSide, built_sides


@pytest.fixture
def top(package) -> Path:
    return package.parents[1]


@pytest.fixture(autouse=True)
def _nothing_is_left(request, tmp_path):
    yield
    if "package" in request.fixturenames:
        assert list((tmp_path / "tmp").iterdir()) == []
        assert len(git(tmp_path / "checkout", "worktree", "list").splitlines()) == 1
        assert not (tmp_path / "checkout" / ".git" / "worktrees").exists()


def said_by(side: BuiltSide) -> list[str]:
    """Names of the five folders that a worker of this side imports."""
    names = "', '".join(("harness", "adapters", "kernels", "reports", "results"))
    code = f"import importlib\nfor n in ('{names}'): print(importlib.import_module('arvbench.' + n).NAME)"
    command = [side.python.executable, "-P", "-c", code]
    done = subprocess.run(command, env=side.python.environment(), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_base_brings_samplers_and_kernels_and_head_the_rest(package, top):
    with built_sides("HEAD~1", package=package) as (base, head):
        second = [f"{name} of the second commit" for name in ("harness", "adapters", "kernels", "reports", "results")]
        assert said_by(head) == second
        first = [
            name.replace("second", "first") if name.startswith(("adapters", "kernels")) else name for name in second
        ]
        assert said_by(base) == first
        assert base.side.source_sha256 != head.side.source_sha256
        assert (base.side.name, base.side.commit) == ("HEAD~1", git(top, "rev-parse", "HEAD~1").strip())
        assert (head.side.name, head.side.dirty, base.side.dirty) == (WORKING_TREE, False, False)
        assert base.python.executable == head.python.executable == sys.executable


def test_the_working_tree_counts_with_its_changes_and_new_files(package, top):
    before = git(top, "status", "--porcelain")
    (top / "adapters" / "__init__.py").write_text("from arvbench.adapters.new import NAME\n")
    (top / "adapters" / "new.py").write_text("NAME = 'not committed'\n")
    (top / "kernels" / "__init__.py").unlink()
    with built_sides("HEAD", package=package) as (base, head):
        assert head.side.dirty and "with changes" in str(head)
        assert said_by(base)[1] == "adapters of the second commit"
        folder = head.python.package_root / "arvbench"
        assert (folder / "adapters" / "new.py").exists() and not (folder / "kernels" / "__init__.py").exists()
        assert "__pycache__" not in git(top, "status", "--porcelain", "--ignored")
    assert before == ""


def test_an_edit_during_the_check_changes_neither_side(package, top):
    with built_sides("HEAD", package=package) as (base, head):
        (top / "adapters" / "__init__.py").write_text("NAME = 'edited'\n")
        assert said_by(head)[1] == said_by(base)[1] == "adapters of the second commit"
        assert base.side.source_sha256 == head.side.source_sha256


def test_head_may_be_a_commit_under_the_harness_of_the_working_tree(package, top):
    (top / "adapters" / "__init__.py").write_text("NAME = 'edited'\n")
    (top / "harness" / "__init__.py").write_text("NAME = 'edited harness'\n")
    with built_sides("HEAD~1", "HEAD", package=package) as (base, head):
        assert said_by(head)[:2] == ["edited harness", "adapters of the second commit"]
        assert said_by(base)[:2] == ["edited harness", "adapters of the first commit"]
        assert head.side.dirty is False


def test_a_linked_worktree_is_a_checkout(package, top, tmp_path):
    git(top, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"), "HEAD~1")
    with built_sides("main", package=tmp_path / "linked" / "src" / "arvbench") as (base, head):
        assert said_by(head)[0] == "harness of the first commit"
        assert said_by(base)[1] == "adapters of the second commit"
    git(top, "worktree", "remove", str(tmp_path / "linked"))


def test_variables_of_a_git_hook_do_not_lead_to_another_repository(package, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    with built_sides("HEAD~1", package=package) as (base, _):
        assert said_by(base)[1] == "adapters of the first commit"
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")


def test_no_hook_of_the_user_runs(package, top, tmp_path):
    hook = top / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    hook.chmod(0o755)
    with built_sides("HEAD~1", package=package):
        pass
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nowhere", "no commit 'nowhere' in the checkout"),
        ("HEAD~9", "no commit 'HEAD~9'"),
        ("HEAD:adapters", "no commit 'HEAD:adapters'"),
        ("", "names no commit"),
        ("-x", "names no commit"),
        ("--output=/tmp/x", "names no commit"),
        ("a\nb", "names no commit"),
        ("a\0b", "names no commit"),
        ("$(touch x)", "no commit '$(touch x)'"),
    ],
)
def test_a_ref_that_is_none_is_refused(package, ref, message):
    with pytest.raises(UserError) as refused, built_sides(ref, package=package):
        pass
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_branch_that_only_the_remote_has_is_named(package, top, tmp_path):
    git(top, "branch", "topic", "HEAD~1")
    git(tmp_path, "clone", "--quiet", str(top), str(tmp_path / "clone"))
    with pytest.raises(UserError, match="did you mean origin/topic"):
        built_sides("topic", package=tmp_path / "clone" / "src" / "arvbench").__enter__()


def test_a_shallow_clone_says_how_to_get_more(package, top, tmp_path):
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{top}", str(tmp_path / "clone"))
    with pytest.raises(UserError, match="this clone is shallow: git fetch --unshallow"):
        built_sides("HEAD~1", package=tmp_path / "clone" / "src" / "arvbench").__enter__()


def break_syntax(top: Path) -> None:
    (top / "adapters" / "broken.py").write_text("def (:\n")


def remove_kernels(top: Path) -> None:
    git(top, "rm", "-r", "--quiet", "kernels")


def state_nothing(top: Path) -> None:
    (top / "pyproject.toml").write_text("[project]\n")


def damage_pyproject(top: Path) -> None:
    (top / "pyproject.toml").write_text("[project\n")


def need_the_impossible(top: Path) -> None:
    (top / "pyproject.toml").write_text(PYPROJECT.replace("[]", '["./no such folder"]'))


def pass_an_option_to_pip(top: Path) -> None:
    (top / "pyproject.toml").write_text(PYPROJECT.replace("[]", '["--target=/tmp/x"]'))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (break_syntax, "SyntaxError"),
        (remove_kernels, "its package has no folder kernels"),
        (state_nothing, "pyproject.toml states no dependencies"),
        (damage_pyproject, "pyproject.toml states no dependencies"),
        (need_the_impossible, "no such folder"),
        (pass_an_option_to_pip, "--target=/tmp/x"),
    ],
)
def test_a_commit_that_does_not_build_is_named_with_the_reason(package, top, spoil, reason):
    whole = git(top, "rev-parse", "HEAD").strip()
    spoil(top)
    spoilt = commit(top)
    git(top, "branch", "spoilt")
    git(top, "reset", "--quiet", "--hard", whole)
    with pytest.raises(UserError) as refused, built_sides("spoilt", package=package):
        pass
    text = str(refused.value)
    assert text.startswith(f"spoilt ({spoilt[:12]}) does not build: ") and reason in text and "\n" not in text


def test_other_dependencies_get_an_environment_of_their_own(package, top, monkeypatch):
    (top / "pyproject.toml").write_text(PYPROJECT.replace("[]", '["numpy"]'))
    (top / "constraints.txt").write_text("numpy==2\n")
    with built_sides("HEAD", package=package) as (base, head):
        assert head.python.executable == sys.executable
        assert Path(base.python.executable).is_relative_to(base.python.package_root)
        assert said_by(base)[1] == "adapters of the second commit"
        code = "import importlib.util; print(importlib.util.find_spec('torch'))"
        alone = subprocess.run([base.python.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
        assert alone.stdout == "None\n"


def test_a_change_of_constraints_alone_counts(package, top):
    (top / "constraints.txt").write_text("numpy==2\n")
    with built_sides("HEAD", package=package) as (base, _):
        assert base.python.executable != sys.executable


def test_a_package_outside_a_checkout_needs_a_baseline(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages" / "arvbench"
    folder.mkdir(parents=True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(UserError, match=r"is not in a git checkout .*--baseline FILE"):
        built_sides("HEAD", package=folder).__enter__()


def test_a_package_installed_inside_a_foreign_checkout_needs_a_baseline(package, top):
    installed = top / ".venv" / "lib" / "arvbench"
    installed.mkdir(parents=True)
    with pytest.raises(UserError, match=r"is not the source of the checkout .*--baseline FILE"):
        built_sides("HEAD", package=installed).__enter__()


def test_without_git_the_machine_lacks_something(package, monkeypatch, tmp_path):
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="git is not installed"):
        built_sides("HEAD", package=package).__enter__()
    monkeypatch.setenv("PATH", path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_after_an_error(package, error):
    with pytest.raises(error), built_sides("HEAD~1", "HEAD", package=package):
        raise error


HANGING = """
import sys
from pathlib import Path
from arvbench.harness.check.sides import built_sides
with built_sides("HEAD~1", package=Path(sys.argv[1])):
    print("built", flush=True)
    sys.stdin.read()
"""


def start_hanging(package: Path) -> subprocess.Popen[str]:
    """A process that builds the sides, says so, and waits."""
    source = {"PYTHONPATH": str(Path(arvbench.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", HANGING, str(package)],
        env=os.environ | source,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_what_a_killed_check_left_is_cleared_by_the_next_one_and_a_living_one_is_not(package, top, tmp_path):
    killed, living = start_hanging(package), start_hanging(package)
    assert killed.stdout.readline() == living.stdout.readline() == "built\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    worktrees = git(top, "worktree", "list").splitlines()
    assert len(worktrees) == 3
    git(top, "worktree", "lock", worktrees[1].split()[0])  # as git does while it makes one
    git(top, "worktree", "lock", worktrees[2].split()[0])
    with built_sides("HEAD~1", package=package):
        assert len(git(top, "worktree", "list").splitlines()) == 3
        assert len(list((tmp_path / "tmp").iterdir())) == 2
    living.communicate(timeout=60)
    assert living.returncode == 0


def test_a_worktree_of_the_user_whose_folder_is_away_stays(package, top, tmp_path):
    git(top, "worktree", "add", "--quiet", "--detach", str(tmp_path / "on-a-stick"))
    (tmp_path / "on-a-stick").rename(tmp_path / "unplugged")
    with built_sides("HEAD~1", package=package):
        pass
    assert "on-a-stick" in git(top, "worktree", "list")
    git(top, "worktree", "prune")


def test_a_full_disk_is_said_in_one_line(package, monkeypatch):
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(HostError, match="cannot write /tmp/x: No space left on device; make room"):
        built_sides("HEAD", package=package).__enter__()
