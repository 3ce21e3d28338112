"""A launcher is a file in backends/: a new one is found, asked and told to cancel without a change anywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import bench

from bench.launch import backends
from bench.launch.launcher import get_launcher, launcher_names
from bench.process.claim import claim
from bench.process.holder import Worker
from bench.store.store import Store

GRID = 'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1, 2]\n[set]\nsteps = 2\n[dummy]\npriority = 3\n'
DUMMY = """
from bench.launch.launcher import Queued, State
from bench.launch.submission import new_submission, read_submissions, write_submission

def settings_of(table):
    if set(table) - {"priority"}:
        raise LookupError(f"[dummy] has no key {min(table)}.")
    return table

def launch(order):
    submission = new_submission(order.store, "dummy", order.title, order.families)
    write_submission(submission, order.execution, order.families)
    (submission.folder / "priority").write_text(str(order.settings["priority"]))
    return []

def queue(store):
    return {
        key: Queued(State.WAITING, "", "Priority", "7", frozenset(runs))
        for submission in read_submissions(store) if submission.launcher == "dummy"
        for key, runs in zip(submission.keys, submission.runs)
    }

def cancel(store, keys):
    return [f"dummy cancelled {len(keys)}"]
"""


@pytest.fixture
def dummy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A launcher that anybody may add."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "dummy.py").write_text(DUMMY)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path / "more")])
    yield
    sys.modules.pop("bench.launch.backends.dummy", None)


def test_a_new_file_is_a_launcher(dummy: None, tmp_path: Path) -> None:
    shipped = {file.stem for file in Path(backends.__path__[0]).glob("*.py")} - {"__init__"}
    assert launcher_names() == sorted({"dummy", *shipped})
    (tmp_path / "g.toml").write_text(GRID)
    said = bench("grid", "g.toml", "--launcher", "dummy", cwd=tmp_path).stderr
    assert "2 families submitted, 0 already queued" in said
    (priority,) = tmp_path.glob("runs/submissions/*/priority")
    assert priority.read_text() == "3"
    said = bench("grid", "g.toml", "--launcher", "dummy", cwd=tmp_path).stderr
    assert "0 families submitted, 2 already queued" in said
    shown = json.loads(bench("status", "g.toml", "--json", cwd=tmp_path, check=1).stdout)
    assert shown["counts"]["families"] == {"waiting": 2}
    said = bench("grid", "g.toml", "--launcher", "dummy", "--with", "prority=1", cwd=tmp_path, check=2).stderr
    assert "[dummy] has no key" in said


def test_its_jobs_are_cancelled_by_it_alone(dummy: None, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    bench("grid", "g.toml", "--launcher", "dummy", cwd=tmp_path)
    (about,) = tmp_path.glob("runs/submissions/*/submission.json")
    family = json.loads(about.read_text())["keys"][0]
    with claim(Store(tmp_path / "runs").claim_file(family), Worker(job=f"{about.parent.name}/7/0")):
        assert bench("cancel", "g.toml", cwd=tmp_path).stdout == "dummy cancelled 2\n"


@pytest.mark.parametrize("name", ["local", "print"])
def test_no_launcher_knows_another(name: str) -> None:
    source = Path(sys.modules[get_launcher(name).launch.__module__].__file__ or "").read_text()
    assert "slurm" not in source.lower()
