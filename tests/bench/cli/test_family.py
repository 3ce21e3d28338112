"""`bench family`: what a job of a scheduler says and does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import bench

from bench.launch.submission import read_submissions
from bench.run import worker
from bench.store.store import Store

GRID = 'methods = ["adamw"]\ntasks = ["few_two"]\nseeds = [1]\n[set]\nsteps = 2\n'


def test_a_family_that_was_computed_during_the_imports_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    bench("grid", "g.toml", "--launcher", "print", cwd=tmp_path)
    (sent,) = read_submissions(Store(tmp_path / "runs"))
    command, plain, others = ("family", str(sent.families), "--item", "0"), worker.make_runner, []

    def late(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(worker, "make_runner", plain)
        others.append(bench(*command, cwd=tmp_path).stderr)  # another job, in the meantime
        return plain(*given, **options)

    monkeypatch.setattr(worker, "make_runner", late)
    said = bench(*command, cwd=tmp_path).stderr
    assert "this family is done" in said and "] done: " not in said
    assert len(others) == 1 and "] done: " in others[0]
