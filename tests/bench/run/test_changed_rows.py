"""Two sets of rows under one name: refused in every path that computes, and apart in every path that plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mirrors import forget, mirror, winogrande, write_rows
from support import bench

from bench.data.identity import ChangedRows, check_rows
from bench.data.splits import DataSource
from bench.plan.base_model import choose_model
from bench.plan.runs import families, plan_run
from bench.process.stop import Stopped
from bench.run.runner import Runner
from bench.specs import Family
from bench.store.store import Store
from bench.task import get_task

COUNTS = {"train": 24, "validation": 12}
RUN = ("run", "--task", "wg_s", "--seed", "1", "--set", "steps=2", "--data-dir", "mirror", "--allow-partial-data")


def planned(source: DataSource, *methods: str) -> Family:
    """The family of some methods on WinoGrande-S."""
    model, _ = choose_model({})
    runs = [plan_run(m, "wg_s", 1, settings={"steps": 4}, model=model, source=source) for m in methods]
    (family,) = families(runs)
    return family


def runner(folder: Path, source: DataSource, **options: Any) -> Runner:
    return Runner(store=Store(folder), source=source, **options)


def test_a_run_on_other_rows_is_another_result(tmp_path: Path) -> None:
    for shift in (0, 1):
        mirror(tmp_path / "mirror", shift, **COUNTS)
        bench(*RUN, "--method", "zero_shot", cwd=tmp_path)
    specs = [json.loads(file.read_text()) for file in (tmp_path / "runs/evals").glob("[0-9a-f]*/spec.json")]
    assert len({spec["data"]["revision"] for spec in specs}) == 2


def test_a_method_that_borrows_a_fit_does_not_borrow_one_of_other_rows(tmp_path: Path) -> None:
    for shift, method in ((0, "adamw"), (1, "mc_dropout")):
        mirror(tmp_path / "mirror", shift, **COUNTS)
        bench(*RUN, "--method", method, cwd=tmp_path)
    assert len(list((tmp_path / "runs/fits").glob("[0-9a-f]*"))) == 2


def test_a_grid_whose_mirror_changes_is_a_new_grid_and_keeps_the_old_results(tmp_path: Path) -> None:
    grid = 'methods = ["zero_shot"]\ntasks = ["wg_s"]\nseeds = [1, 2]\ndata_dir = "mirror"\nallow_partial_data = true\n'
    (tmp_path / "g.toml").write_text(grid)
    for shift, done in ((0, 2), (1, 4), (0, 4)):
        mirror(tmp_path / "mirror", shift, **COUNTS)
        bench("grid", "g.toml", cwd=tmp_path)
        assert len(list((tmp_path / "runs/evals").glob("[0-9a-f]*"))) == done


@pytest.mark.parametrize("methods", [("zero_shot",), ("adamw", "mc_dropout")])
def test_rows_that_change_between_plan_and_work_are_refused_and_nothing_is_stored(
    tmp_path: Path, methods: tuple[str, ...]
) -> None:
    source = DataSource(mirror(tmp_path / "mirror", **COUNTS), allow_partial=True)
    family = planned(source, *methods)
    mirror(tmp_path / "mirror", shift=1, **COUNTS)
    for _ in range(2):  # and again when it is tried again
        with pytest.raises(ChangedRows, match="The rows of 'wg_s' are not those that this run was planned with"):
            runner(tmp_path / "runs", source).run(family)
    assert not any(Store(tmp_path / "runs").has(run) or Store(tmp_path / "runs").has(run.fit) for run in family.runs)
    mirror(tmp_path / "mirror", **COUNTS)
    assert len(runner(tmp_path / "runs", source).run(family)) == len(methods)


def test_a_training_is_not_resumed_on_other_rows(tmp_path: Path) -> None:
    source = DataSource(mirror(tmp_path / "mirror", **COUNTS), allow_partial=True)
    family = planned(source, "adamw")
    store, calls = Store(tmp_path / "runs"), []

    def stop() -> str:
        calls.append(None)
        return "enough" if (store.work(family.root) / "checkpoint.safetensors").parent.exists() else ""

    with pytest.raises(Stopped):
        runner(tmp_path / "runs", source, stop=stop).run(family)
    mirror(tmp_path / "mirror", shift=1, **COUNTS)
    with pytest.raises(ChangedRows, match="The rows of 'wg_s'"):
        runner(tmp_path / "runs", source).run(family)
    assert (store.work(family.root) / "checkpoint.safetensors").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hub(shift) makes the hub hand out WinoGrande-S with its answers moved, under one revision that pins nothing."""
    import datasets

    monkeypatch.setattr(type(get_task("wg_s")), "rows", COUNTS)
    monkeypatch.setattr(type(get_task("wg_s")), "fingerprints", {})

    def serve(shift: int) -> None:
        forget()
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, split, **k: winogrande(COUNTS[split], shift))

    yield serve
    forget()


@pytest.mark.parametrize("method", ["mc_dropout", "la_kfac"])
def test_a_stored_posterior_of_other_rows_is_not_borrowed(
    tmp_path: Path, hub: Callable[[int], None], method: str
) -> None:
    hub(0)
    runner(tmp_path, DataSource()).run(planned(DataSource(), "adamw"))
    hub(1)
    with pytest.raises(ChangedRows, match=r"^The stored fit [0-9a-f]{16} \(adamw\) was computed on other rows"):
        runner(tmp_path, DataSource()).run(planned(DataSource(), method))
    hub(0)
    assert runner(tmp_path, DataSource()).run(planned(DataSource(), method))


def test_a_stored_posterior_is_used_where_its_rows_cannot_be_had(
    tmp_path: Path, hub: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(0)
    runner(tmp_path, DataSource()).run(planned(DataSource(), "adamw"))
    import datasets

    forget()

    def validation_only(*arguments: Any, split: str, **options: Any) -> Any:
        if split == "train":
            raise ConnectionError("offline")
        return winogrande(COUNTS[split])

    monkeypatch.setattr(datasets, "load_dataset", validation_only)
    assert runner(tmp_path, DataSource()).run(planned(DataSource(), "mc_dropout"))


@pytest.mark.parametrize("damage", ["missing", "cut", "malformed"])
def test_what_is_wrong_with_rows_is_told_before_any_work_and_is_nobodys_failure(tmp_path: Path, damage: str) -> None:
    mirror(tmp_path / "mirror", **COUNTS)
    file = tmp_path / "mirror/allenai/winogrande/winogrande_s/validation-00000-of-00001.parquet"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        write_rows(file, [{**winogrande(1)[0], "answer": "3"}])
    said = bench(*RUN, "--method", "adamw", cwd=tmp_path, check=2).stderr
    assert "validation" in said and said.count("\n") == 1
    assert not list((tmp_path / "runs").glob("f*/*"))  # neither fits nor failures


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_rows_of_all_runs_are_read_before_any_work(tmp_path: Path, damage: str) -> None:
    source = DataSource(mirror(tmp_path, **COUNTS), allow_partial=True)
    (run,) = planned(source, "zero_shot").runs
    needed = [(run.fit.data, "train"), (run.data, run.split)]
    check_rows(needed, source)
    file = tmp_path / "allenai/winogrande/winogrande_s/validation-00000-of-00001.parquet"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        mirror(tmp_path, 1, validation=12)
    with pytest.raises((OSError, ValueError), match=r"wg_s|validation"):
        check_rows(needed, source)
