"""The local launcher: what it does before the first family."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import plan

from bench.launch.backends import local
from bench.launch.launcher import Order
from bench.run.execution import Execution
from bench.specs import Family
from bench.store.store import Store


def steps_of(workers: int, gpus: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done, in order, for two families."""
    done: list[str] = []

    def noted(name: str, found: Any = None) -> Any:
        return lambda *_: done.append(name) or found

    for name in ("import_ahead", "preflight"):
        monkeypatch.setattr(local, name, noted(name))
    monkeypatch.setattr(local.gpus, "assign", lambda count, *_: gpus[:count])
    monkeypatch.setattr(local, "Pool", lambda *_: SimpleNamespace(run=noted("pool", [])))
    monkeypatch.setattr(local, "_serial", noted("serial", []))
    families = tuple(Family(run.fit, (run,)) for run in (plan("adamw", seed=seed) for seed in (1, 2)))
    assert local.launch(Order("g", Store(tmp_path / "runs"), Execution(), families, workers)) == []
    return done


def test_the_server_of_workers_imports_while_rows_and_base_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps_of(2, [None, None], tmp_path, monkeypatch) == ["import_ahead", "preflight", "pool"]


@pytest.mark.parametrize(("workers", "gpus"), [(1, []), (2, ["0", "0"])])
def test_nothing_is_imported_ahead_where_no_worker_is_forked(
    workers: int, gpus: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps_of(workers, gpus, tmp_path, monkeypatch) == ["preflight", "serial" if workers == 1 else "pool"]
