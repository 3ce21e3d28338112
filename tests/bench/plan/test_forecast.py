"""What a grid needs before it runs: counted from specs and store, and predicted from two small sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Never

import pytest
from support import bench, compute, plan, plan_few

from bench.plan.forecast import Forecast, Need, describe, forecast, needed, scored_rows
from bench.plan.runs import families
from bench.run.probe import Costs, FitCost, Line, RunCost, fit_kind, probe, run_kind
from bench.run.runner import Runner
from bench.specs import RunSpec
from bench.store.store import Store

DRAWS = "[set.mc_dropout]\nmasks = 2\n[set.ivon]\ndraws = 2\n"
GRID = (
    'methods = ["adamw", "mc_dropout", "ivon"]\ntasks = ["few_two"]\nplugins = ["few_notes"]\nseeds = [1, 2]\n'
    f"[set]\nsteps = 4\n{DRAWS}"
)


def test_a_line_goes_through_two_points_and_never_falls() -> None:
    line = Line.through((8, 1.0), (40, 2.0))
    assert line.at(8) == pytest.approx(1.0) and line.at(1000) == pytest.approx(0.75 + 1000 / 32)
    assert Line.through((8, 2.0), (40, 1.0)).at(10_000) == 1.0  # noise of the clock
    assert Line.through((8, 1.0), (8, 3.0)).at(100) == 3.0
    assert Line.through((8, 1.0), (16, 4.0)) == Line(0.0, 0.25), "not below 0 at 0, and through what was measured"


def test_seeds_steps_and_real_values_cost_the_same_and_whole_numbers_do_not() -> None:
    run = plan("ivon", seed=1)
    for other in (plan("ivon", seed=2), plan("ivon", seed=1, steps=99), plan("ivon", seed=1, ivon={"lr": 0.9})):
        assert fit_kind(other.fit) == fit_kind(run.fit) and run_kind(other) == run_kind(run)
    assert fit_kind(plan("ivon", batch_size=8).fit) == fit_kind(run.fit)  # the batch of prediction
    assert run_kind(plan("ivon", ivon={"draws": 3})) != run_kind(run)
    assert fit_kind(plan("ivon", ivon={"train_draws": 2}).fit) != fit_kind(run.fit)
    assert run_kind(plan("ivon", task="notes_four")) != run_kind(run)
    assert run_kind(plan("mc_dropout")) != run_kind(plan("adamw"))


def test_stored_results_are_not_needed_again(tmp_path: Path) -> None:
    adamw, dropout, ivon = plan("adamw"), plan("mc_dropout"), plan("ivon")
    store = compute(adamw, tmp_path)
    need = needed(families([adamw, dropout, ivon]), store)
    assert need == Need(2, 2, (ivon.fit,), (dropout, ivon), 1, 1)
    assert need.steps == ivon.fit.train.steps


def costs(run: RunSpec, start: float = 2.0) -> Costs:
    fit = FitCost(True, Line(1.0, 0.5), Line(2.0, 0.25), Line(0.0, 4.0), Line(0.0, 0.125), 4096)
    return Costs({fit_kind(run.fit): fit}, {run_kind(run): RunCost(Line(3.0, 0.125), Line(0.0, 8.0))}, 512.0, start)


def test_costs_add_up() -> None:
    run = plan("adamw", steps=1000)
    scored = scored_rows(run)
    need = Need(1, 1, (run.fit,), (run,), 0, 0)
    found = forecast(need, costs(run))
    fit = (1.0 + 500) + (2.0 + 0.25) + 0.125
    assert found.seconds == pytest.approx(fit + 3.0 + 0.125 * scored)
    assert found.seconds_by_method == {"adamw": found.seconds}
    assert found.disk_bytes == 4096 + 8 * scored
    text = "\n".join(describe("g", need, found, 2))
    assert "1 fit (1 adamw)" in text and "with 2 workers" in text and "512 MiB per worker" in text


@pytest.mark.parametrize(("every", "times"), [(0, 0), (250, 5), (400, 4), (1000, 2), (5000, 2)])
def test_mid_run_evaluations_come_before_the_first_step_and_after_the_last_too(every: int, times: int) -> None:
    run = plan("adamw", steps=1000)
    need = Need(1, 1, (run.fit,), (run,), 0, 0)
    watched = forecast(need, costs(run), every).seconds - forecast(need, costs(run)).seconds
    assert watched == pytest.approx(times * 4.0)


def test_families_go_to_the_first_worker_that_is_free() -> None:
    found = Forecast((5.0, 1.0, 1.0, 1.0, 4.0), start=2.0, seconds_by_method={}, memory_mib=0, disk_bytes=0)
    assert found.wall_seconds(1) == 14.0
    assert found.wall_seconds(2) == 2.0 + 3.0 + 4.0, "the fifth waits for the three short ones"
    assert found.wall_seconds(9) == 7.0


def test_what_starts_from_a_fit_is_in_its_family() -> None:
    runs = [plan(method, seed=seed) for seed in (1, 2) for method in ("adamw", "ensemble", "mc_dropout")]
    need = needed(families(runs), Store(Path("none")))
    some = Line(1.0, 0.0)
    measured = Costs(
        {fit_kind(fit): FitCost(False, some, some, Line(0, 0), Line(0, 0), 0) for fit in need.fits},
        {run_kind(run): RunCost(some, some) for run in need.runs},
        0.0,
        0.0,
    )
    found = forecast(need, measured)
    members = len(runs[1].fit.bases)
    assert found.families == (members + 1 + 3,) * 2, "its members, the ensemble's own fit and three evaluations"


def test_a_probe_predicts_what_the_store_will_hold_and_leaves_nothing(tmp_path: Path) -> None:
    two = {"mc_dropout": {"masks": 2}, "ivon": {"draws": 2}}
    methods = ("bayes_optimal", "adamw", "mc_dropout", "ivon")
    runs = [plan_few(method, seed=seed, **two) for method in methods for seed in (1, 2)]
    runner = Runner(store=Store(tmp_path / "unused"))
    need = needed(families(runs), runner.store)
    measured = probe(runner, need.fits, need.runs)
    assert len(measured.fits) == 3 and len(measured.runs) == 4  # one of each kind, whatever the number of seeds
    assert not (tmp_path / "unused").exists()
    found = forecast(need, measured)
    assert 0 < found.seconds_by_method["adamw"] < found.seconds and measured.memory_mib > 50
    assert found.start > 0 and len(found.families) == 6  # mc_dropout is of the family of adamw
    for run in runs:
        compute(run, tmp_path / "runs")
    files = [*tmp_path.glob("runs/*/*/posterior.safetensors"), *tmp_path.glob("runs/*/*/predictions.safetensors")]
    written = sum(file.stat().st_size for file in files)
    assert 0.5 < found.disk_bytes / written < 1.5


def test_the_command_counts_and_predicts(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    said = bench("plan", "g.toml", "--no-probe", cwd=tmp_path).stdout
    assert "g: 4 families, 6 evaluations" in said and "4 fits (2 adamw, 2 ivon)" in said and "time" not in said
    said = bench("plan", "g.toml", cwd=tmp_path).stdout
    assert "with 1 worker\n" in said and "MiB per worker" in said and "    mc_dropout" in said
    bench("grid", "g.toml", cwd=tmp_path)
    said = bench("plan", "g.toml", cwd=tmp_path).stdout
    assert "stored      4 fits, 6 evaluations" in said and "0 families: 0 fits" in said


def test_a_method_that_a_probe_cannot_run_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_short(*_: object) -> Never:
        raise IndexError("deque index out of range")

    monkeypatch.setattr("bench.launch.probing.probed", too_short)
    (tmp_path / "g.toml").write_text(GRID)
    said = bench("plan", "g.toml", cwd=tmp_path)
    assert "4 fits (2 adamw, 2 ivon)" in said.stdout and "MiB per worker" not in said.stdout
    assert "not predicted: a probe of few steps failed (" in said.stderr and "deque index out of range" in said.stderr


def test_a_base_that_is_not_here_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.toml").write_text(GRID + f'[model]\nid = "owner/name"\nrevision = "{"0" * 40}"\n')
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    said = bench("plan", "g.toml", cwd=tmp_path)
    assert "4 fits (2 adamw, 2 ivon)" in said.stdout
    assert "owner/name is not on this machine, and a plan downloads nothing" in said.stderr


def test_a_need_is_a_value() -> None:
    need = Need(1, 1, (), (), 0, 0)
    assert dataclasses.replace(need, families=2) != need and need.steps == 0
