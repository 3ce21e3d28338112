"""Timing in turns, its JSON file and the page that is written from such files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from tools import time_growth, time_laplace, time_loop, time_rows, time_step, time_store
from tools.timing import Ratio, compared, report, take_turns
from tools.write_performance import ROOT, page


def test_ways_take_turns_and_warm_rounds_do_not_count() -> None:
    order: list[str] = []
    seconds = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, warm=2)  # type: ignore[misc]
    assert "".join(order) == "ab" * 5
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    """A round in which the machine was ten times slower changes neither."""
    seconds = {"ours": [1.0, 20.0, 3.0], "theirs": [2.0, 40.0, 4.0]}
    found = compared(seconds, Ratio("ours", "theirs", 0.6))
    assert (found["median"], found["min"], found["max"], found["rounds"]) == (0.5, 0.5, 0.75, 3)


def test_the_page_has_what_was_measured_and_says_what_was_not(tmp_path: Path) -> None:
    seconds = {"ours": [0.5, 0.6, 0.7], "theirs": [1.0, 1.0, 1.0]}
    ratios = [Ratio("ours", "theirs", 0.55), Ratio("theirs", "ours")]
    report(tmp_path / "cpu" / "time_ivon.json", "one step", seconds, ratios, {"threads": 1}, {"peak MiB": 12.4})
    text = page(tmp_path)
    assert "| ours | 600.0 | 500.0 to 700.0 | 3 |" in text
    assert "| ours | theirs | 0.60 | 0.50 to 0.70 | at most 0.55 | no |" in text
    assert "| theirs | ours | 1.67 | 1.43 to 2.00 | - | - |" in text and "| peak MiB | 12 |" in text
    assert text.count("\nUnmeasured.\n") == 11 and "### Table 1\n\nUnmeasured." in text
    assert "| 7 B base in bfloat16: steps, draws, curvature, memory | unmeasured |" in text


def test_a_part_that_failed_on_the_gpu_is_not_called_measured(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    parts = {"graphs": {"error": "x"}, "smoke": {"a": {"passed": True}, "b": {"passed": False}}, "05b": {"ms": 1.0}}
    (tmp_path / "gpu" / "one.json").write_text(json.dumps({"parts": parts}))
    text = page(tmp_path)
    assert "| 0.5 B base with CUDA graphs | failed, unmeasured |" in text
    assert "| every method for 5 steps, against the CPU | 1 of 2 passed |" in text
    assert "| 0.5 B base: steps, draws, curvature | measured |" in text


def test_the_committed_page_is_the_one_of_the_committed_results() -> None:
    assert (ROOT / "docs" / "performance.md").read_text() == page(ROOT / "results")


def test_the_gpu_figures_are_shown_with_their_targets(tmp_path: Path) -> None:
    """As tools/gpu.py writes them; a later file that failed replaces nothing."""
    (tmp_path / "gpu").mkdir()
    int8 = {
        "forward_backward": {"ms": 150.0, "peak_mib": 10240.0, "tokens_per_s": 1234.0, "share_of_matmul": 0.25},
        "ivon_draw_and_step, noise from device": {"ms": 0.25, "peak_mib": 9216.0},
        "share of IVON in its step": {"device": 0.0015, "cpu": 0.2},
        "la_kfac": {"curvature_ms_per_example": 52.0, "peak_mib": 25600.0, "linearised_predictive": {"ms": 900.0}},
    }
    steps = {"adamw, eager": {"ms_per_step": 100.0, "start_seconds": 0.5}, "kernels": {"clipping": 7}}
    ways = {"adamw, compile + graphs": {"ms_per_step": 10.0, "start_seconds": 40.0}, "ivon, compile": {"error": "x"}}
    rates = {"eager, 1": 10.0, "eager, 8": 50.0, "graphs, 1": 80.0, "graphs, 8": 160.0}
    workers = {"plain": {name: {"steps_per_s": rate} for name, rate in rates.items()}}
    parts = {"7b_int8": int8, "graphs": steps, "compile": ways, "workers": workers}
    (tmp_path / "gpu" / "one.json").write_text(json.dumps({"parts": parts}))
    (tmp_path / "gpu" / "two.json").write_text(json.dumps({"parts": {"graphs": {"error": "x"}}}))
    text = page(tmp_path)
    for line in (
        "| forward and backward, 4 prompts | unmeasured | unmeasured | 150 (10.0) | unmeasured |",
        "| curvature per example, KFAC | unmeasured | unmeasured | 52 (25.0) | unmeasured |",
        "| share of the matmul ceiling | unmeasured | unmeasured | 25.00% | unmeasured |",
        "| eager | 100.0 | 1.00 | 0.5 | unmeasured | unmeasured | unmeasured |",
        "| compiled, CUDA graphs | 10.0 | 0.10 | 40.0 | unmeasured | unmeasured | unmeasured |",
        "| clipping | 7 |",
        "| 8 | 50.0 | 160.0 | unmeasured | unmeasured |",
        "| 7 B int8: IVON draw + step over its training step | 0.15% | at most 0.20% | yes |",
        "| 0.5 B: best step over the eager one (AdamW) | 0.10 | at most 0.50 | yes |",
        "| 0.5 B: 8 workers over one, both eager | 5.00 | at least 3.00 | yes |",
        "| 0.5 B: the best of 8 workers over the best of one | 2.00 | at least 3.00 | no |",
        "| 7 B int8: largest peak of any operation, GiB | 25.0 | at most 24.0 | no |",
        "| torch.compile | measured, but for ivon, compile |",
    ):
        assert line in text


def test_profiles_and_slopes_are_tables(tmp_path: Path) -> None:
    sides = {"theirs": {"forward": 2.0, "backward": 1.5}, "ours": {"forward": 1.25, "backward": 1.0}}
    slopes = [{"what": "a", "against": "rank", "sizes": [1, 4], "time": 1.0, "memory": 0.5, "peak_mib": [2.0, 4.0]}]
    for name, tables in (("time_loop", {"profile": sides}), ("time_growth", {"slopes": slopes})):
        report(tmp_path / "cpu" / f"{name}.json", "a step", {"ours": [0.1]}, tables=tables)
    text = page(tmp_path)
    assert "| a step | 3.50 | 2.25 |" in text and "| backward | 1.50 | 1.00 |" in text
    assert "| a | rank | 1, 4 | 1.00 | 0.50 | 2.0, 4.0 |" in text


def test_a_slope_is_the_exponent_of_a_power() -> None:
    assert time_growth.slope([1, 2, 8], [3 * x**1.5 for x in (1, 2, 8)]) == pytest.approx(1.5)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "predict"])
def test_both_sides_of_a_step_run_and_predict_the_same(part: str, tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    more = ("--rounds", "1", "--layers", "1", "--batches", "1", "--prompts", "4")
    time_step.main(["--part", part, *more, "--json", str(file)])
    found = json.loads(file.read_text())
    assert len(found["ratios"]) == len(found["seconds"]) - 1


@pytest.mark.slow
def test_laplace_of_both_sides_is_the_same(tmp_path: Path) -> None:
    """The script refuses to time sides that differ."""
    file = tmp_path / "laplace.json"
    time_laplace.main(["--train", "4", "--test", "2", "--rounds", "1", "--json", str(file)])
    assert len(json.loads(file.read_text())["ratios"]) == 2


def test_a_step_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "loop.json"
    time_loop.main(["--steps", "2", "--rounds", "1", "--json", str(file)])
    for side in json.loads(file.read_text())["profile"].values():
        assert set(side) == {*time_loop.PARTS, time_loop.REST} and all(value >= 0 for value in side.values())
        assert side["forward"] > 0 and side["backward"] > 0 and side["optimizer"] > 0


def test_a_moment_belongs_to_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(time_loop, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    watch = time_loop.Watch()
    with watch.inside("forward"), watch.inside("batch"):
        pass
    assert watch.spent == {**dict.fromkeys(watch.spent, 0.0), "forward": 2.0 + 4.0, "batch": 3.0, time_loop.REST: 1.0}


def test_the_store_and_the_dump_are_timed(tmp_path: Path) -> None:
    file = tmp_path / "store.json"
    time_store.main(["--results", "1", "--examples", "5", "--rounds", "1", "--json", str(file)])
    assert [one["what"] for one in json.loads(file.read_text())["ratios"]] == ["store, write", "store, read"]


def test_rows_are_one_grid_or_a_run_and_a_store_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []

    def trained(folder: Path, *command: str) -> float:
        commands.append(command)
        store = folder / command[command.index("--runs") + 1]
        for name, trace in (("trained", "{}\n"), ("borrowed", "")):
            (store / "fits" / name).mkdir(parents=True)
            (store / "fits" / name / "trace.jsonl").write_text(trace)
        return 3.0 if command[0] == "grid" else 2.0

    monkeypatch.setattr(time_rows, "timed", trained)
    file = tmp_path / "rows.json"
    time_rows.main(["--steps", "2", "--rows", "adamw", "swag", "--json", str(file)])
    found = json.loads(file.read_text())
    assert [command[:3] for command in commands] == [
        ("grid", "g.toml", "--runs"), ("run", "--method", "adamw"), ("run", "--method", "swag")
    ]  # fmt: skip
    assert found["ratios"][0]["median"] == 0.75 and list(found["further"].values()) == [1, 2]


@pytest.mark.slow
def test_every_axis_has_slopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks once per forward pass, and so not with the load of the machine."""
    passes = 0

    def tick(module: torch.nn.Module, _: object) -> None:
        nonlocal passes
        passes += type(module).__name__ == "LlamaModel"

    monkeypatch.setattr(time_growth, "process_time", lambda: passes)
    monkeypatch.setattr(time_growth, "AXES", {"draws": ((1, 4), ("prediction by draws", "training step, IVON"))})
    monkeypatch.setattr(time_growth, "SHAPE", {**time_growth.SHAPE, "hidden_size": 32, "intermediate_size": 64})
    file = tmp_path / "growth.json"
    with register_module_forward_pre_hook(tick):
        time_growth.main(["--rounds", "1", "--json", str(file)])
    found = {one["what"]: one["time"] for one in json.loads(file.read_text())["slopes"]}
    assert found == {"prediction by draws": pytest.approx(1.0), "training step, IVON": pytest.approx(0.0)}
