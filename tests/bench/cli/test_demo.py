"""`bench demo`: the packaged grids, and the table it ends with. The run itself is `make demo`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import bench

import bench.grids as grids
from analysis.tables import variants
from bench.cli.demo import _opening, _part
from bench.cli.main import main
from bench.plan.grid import read_grid
from bench.store.display import main_variant_of

GRIDS = Path(next(iter(grids.__path__)))


@pytest.mark.parametrize("name", ["quick.toml", "demo.toml"])
def test_the_grids_of_the_demo_need_neither_network_nor_gpu(name: str) -> None:
    grid = read_grid(GRIDS / name)
    assert grid.model.id == "embedded" and all(task.startswith("notes_") for task in grid.tasks)
    assert {"bayes_optimal", "adamw", "ivon"} <= set(grid.methods) and grid.families()


def test_the_quick_one_is_small() -> None:
    quick, whole = (read_grid(GRIDS / name) for name in ("quick.toml", "demo.toml"))
    steps = [sum(run.fit.train.steps for run in grid.runs()) for grid in (quick, whole)]
    assert steps[0] < steps[1] / 10


def test_the_first_table_is_what_stands_before_the_second_heading() -> None:
    assert _opening("# Report\n\n## One\n\n| a |\n\n### Part\n\n| b |\n\n## Two\n\nrest\n") == (
        "# Report\n\n## One\n\n| a |\n\n### Part\n\n| b |"
    )


def test_a_part_ends_at_the_next_heading() -> None:
    assert (
        _part("# Report\n\n## One\n\n| a |\n\n## Two\n\n### Part\n\n- b\n\n## Three\n", "Two")
        == "## Two\n\n### Part\n\n- b"
    )


def test_a_report_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("")
    said = bench("demo", "--quick", cwd=tmp_path, check=2).stderr
    assert said == "bench: --out report: it is not a folder. Choose another place.\n"
    assert not (tmp_path / "runs").exists()


def test_the_report_opens_with_the_main_variant_of_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def write_report(runs: Path, out: Path) -> list[Path]:
        opened.append(main_variant_of(runs))
        out.mkdir()
        (out / "tables.md").write_text(f"# Report\n\n## One\n\n| a |\n\n## {variants.TABLE.heading}\n\nnone\n")
        return [out / "tables.md", out / "report.html"]

    monkeypatch.setattr("bench.cli.demo.launch", lambda *arguments: (tmp_path / "runs").mkdir() or 0)
    monkeypatch.setattr("analysis.report.write_report", write_report)
    assert main(["demo", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    assert opened == [read_grid(GRIDS / "demo.toml").main_variant] == ["long"]
