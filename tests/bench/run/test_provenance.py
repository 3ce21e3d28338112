"""Which commit a result came from, and whether its code differs from it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bench.run.provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a commit, and a copy of the suite's provenance in it that it does not track."""
    for folder in ("bench/grids", "bench/run", "methods", "tasks"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(bench.run.provenance.__file__, tmp_path / "bench" / "run" / "provenance.py")
    (tmp_path / "theirs.txt").write_text("of another project")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")  # as in the suite's own
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "theirs.txt", ".gitignore")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "x")


def seen(folder: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) as the copy in that folder sees them; a new module, so nothing is remembered."""
    spec = importlib.util.spec_from_file_location("provenance_copy", folder / "bench" / "run" / "provenance.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state: tuple[str | None, bool | None] = module.code_state()
    return state


def test_the_repository_that_the_suite_is_installed_into_is_not_its_own(checkout: Path) -> None:
    assert seen(checkout) == (None, None)


def test_code_makes_a_checkout_dirty_and_grids_do_not(checkout: Path) -> None:
    git(checkout, "add", "bench")
    commit(checkout)
    head = git(checkout, "rev-parse", "HEAD")
    assert seen(checkout) == (head, False)
    (checkout / "bench" / "grids" / "mine.toml").write_text("steps = 1")
    (checkout / "theirs.txt").write_text("changed")
    assert seen(checkout) == (head, False)
    (checkout / "methods" / "new.py").write_text("x = 1")
    assert seen(checkout) == (head, True)


def test_without_a_repository_nothing_is_known(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    assert seen(checkout) == (None, None)


@pytest.mark.parametrize("failure", ["killed", "no memory"])
def test_git_is_asked_again_when_it_failed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, failure: str, tmp_path: Path
) -> None:
    git(checkout, "add", "bench")
    commit(checkout)
    real, asked = subprocess.run, []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command[1])
        if len(asked) == 1:
            if failure == "killed":
                return subprocess.CompletedProcess(command, -9, "", "")
            raise OSError(12, "Cannot allocate memory")
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    head, dirty = seen(checkout)
    assert head is not None and dirty is False and asked[:2] == ["ls-files", "ls-files"]


def test_a_failure_of_git_is_not_remembered(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(checkout, "add", "bench")
    commit(checkout)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 128, "", "bad"))
        patch.setattr(bench.run.provenance, "ROOT", checkout)
        assert bench.run.provenance.code_state() == (None, None)
    monkeypatch.setattr(bench.run.provenance, "ROOT", checkout)
    assert bench.run.provenance.code_state() == (git(checkout, "rev-parse", "HEAD"), False)
