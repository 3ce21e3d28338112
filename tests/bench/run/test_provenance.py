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
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "theirs.txt")
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
    return module._commit(), module._dirty()


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
