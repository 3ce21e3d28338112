"""`--track`: an execution setting that follows trainings and changes no result."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support import bench

RUN = ("run", "--method", "adamw", "--task", "notes_two", "--seed", "1", "--set", "steps=4")
GRID = 'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1]\n[set]\nsteps = 4\n'


def test_a_tracker_follows_every_step_and_changes_nothing(tmp_path: Path) -> None:
    plain = bench(*RUN, "--runs", "plain", cwd=tmp_path).stdout
    assert bench(*RUN, "--runs", "tracked", "--track", "csv", cwd=tmp_path).stdout == plain
    (curve,) = tmp_path.glob("tracked/tracking/*/curve.csv")
    rows = list(csv.DictReader(curve.open()))
    assert {row["step"] for row in rows if row["name"] == "loss"} and set(rows[0]) == {"step", "name", "value"}
    (one,), (two,) = (list(tmp_path.glob(f"{name}/fits/*/posterior.safetensors")) for name in ("plain", "tracked"))
    assert one.read_bytes() == two.read_bytes() and one.parent.name == two.parent.name == curve.parent.name


def test_a_submission_carries_its_trackers(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    bench("grid", "g.toml", "--launcher", "print", "--track", "csv", cwd=tmp_path)
    (file,) = tmp_path.glob("runs/submissions/*/families.jsonl")
    bench("family", str(file), "--item", "0", cwd=tmp_path)
    assert len(list(tmp_path.glob("runs/tracking/*/curve.csv"))) == 1


@pytest.mark.parametrize("name", ["cvs", "no_such_module:Tracker", "json:NoSuchClass"])
def test_a_tracker_that_does_not_exist_is_refused(name: str, tmp_path: Path) -> None:
    said = bench(*RUN, "--track", name, cwd=tmp_path, check=2).stderr
    assert said.startswith("bench: ") and name.partition(":")[0] in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()
