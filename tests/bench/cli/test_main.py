"""End to end through the command line, as a user would."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import bench

from bench.cli.main import main
from bench.method import METHODS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
GRID = """
protocol = "paper"
methods = ["bayes_optimal", "adamw", "ivon_mean", "ivon"]
tasks = ["notes_two"]
seeds = [1, 2]
[set]
steps = 6
[sweep.ivon]
tau = [0.5, 1]
"""


@pytest.fixture(scope="module")
def grid_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small grid."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "small.toml").write_text(GRID)
    bench("grid", "small.toml", cwd=folder)
    return folder


def test_a_grid_trains_each_root_once_and_a_second_call_computes_nothing(grid_store: Path) -> None:
    fits = sorted((grid_store / "runs/fits").glob("[0-9a-f]*"))
    methods = [json.loads((fit / "spec.json").read_text())["method"] for fit in fits]
    assert sorted(methods) == ["adamw", "adamw", "bayes_optimal", "bayes_optimal", "ivon", "ivon"]
    assert len(list((grid_store / "runs/evals").glob("[0-9a-f]*"))) == 10  # 4 methods and a sweep point, 2 seeds
    before = {p: p.stat().st_mtime_ns for p in grid_store.rglob("*") if p.is_file()}
    bench("grid", "small.toml", cwd=grid_store)
    assert {p: p.stat().st_mtime_ns for p in grid_store.rglob("*") if p.is_file()} == before


def test_two_workers_give_the_leaderboard_of_one(grid_store: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(GRID)
    bench("grid", "small.toml", "--workers", "2", cwd=tmp_path)
    for folder in (grid_store, tmp_path):
        bench("leaderboard", cwd=folder)
    rows, theirs = (list(csv.DictReader((f / "leaderboard.csv").open())) for f in (grid_store, tmp_path))
    assert rows == [{**row, "date": mine["date"]} for row, mine in zip(theirs, rows, strict=True)]  # all but the clock
    assert {row["method"] for row in rows} == {"bayes_optimal", "adamw", "ivon_mean", "ivon"}
    assert {row["n_seeds"] for row in rows} == {"2"}


def test_status_counts_what_is_there(grid_store: Path, tmp_path: Path) -> None:
    assert "10 evaluations: 10 done." in bench("status", "small.toml", cwd=grid_store).stdout
    (tmp_path / "small.toml").write_text(GRID)
    assert "10 evaluations: 10 missing." in bench("status", "small.toml", cwd=tmp_path, check=1).stdout


def test_run_prints_its_key_and_show_finds_it(tmp_path: Path) -> None:
    done = bench("run", "--method", "ivon", "--task", "notes_bool", "--seed", "21", "--set", "steps=4",
                 "--set", "ivon.ess=1e6", "--set", "ivon.draws=2", cwd=tmp_path)  # fmt: skip
    key = done.stdout.split("key ")[1].split()[0]
    shown = json.loads(bench("show", key[:6], cwd=tmp_path).stdout)
    assert shown["spec"]["fit"]["options"]["ess"] == 1e6 and shown["spec"]["fit"]["train"]["steps"] == 4
    assert shown["facts"]["draws"] == 2
    again = bench("run", "--method", "ivon", "--task", "notes_bool", "--seed", "21", "--set", "steps=4",
                  "--set", "ivon.ess=1000000", "--set", "ivon.draws=2", cwd=tmp_path)  # fmt: skip
    assert again.stdout == done.stdout and "train" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "ivno", "--task", "arc_e"], "There is no method 'ivno'. Did you mean 'ivon'"),
        (["--method", "ivon", "--task", "arce"], "There is no task 'arce'. Did you mean 'arc_e'"),
        (["--method", "ivon", "--task", "arc_e", "--set", "ivon.es=1"], "'ivon' has no hyperparameter 'es'. Did you"),
        (
            ["--method", "ivon", "--task", "arc_e", "--set", "step=1"],
            "There is no setting 'step'. Did you mean 'steps'",
        ),
        (["--method", "ivon", "--task", "arc_e", "--set", "steps"], "write it as name=value"),
        (["--method", "ivon", "--task", "arc_e", "--protocol", "papr"], "no protocol 'papr'. Did you mean 'paper'"),
        (["--method", "ivon", "--task", "arc_e", "--quantization", "int4"], "Did you mean 'int8'"),
        (["--method", "bayes_optimal", "--task", "arc_e"], "whose answer distribution is known"),
        (["--method", "sgld", "--task", "notes_two", "--set", "steps=2"], "collects 1 sample in 2 steps"),
        (["--method", "ivon", "--task", "arc_e", "--plugin", "no_such"], "no such module"),
        (["--method", "ivon", "--task", "arc_e", "--data-dir", "no_such"], "There is no folder no_such"),
        (["--method", "ivon", "--task", "arc_e", "--device", "gpu"], "use auto, cpu, cuda or cuda:N"),
        (["--method", "ivon", "--task", "arc_e", "--checkpoint-seconds", "nan"], "use 0 to 604800"),
        (["--method", "ivon", "--task", "arc_e", "--eval-every", "-1"], "use a number of steps, or 0"),
        (["--method", "ivon", "--task", "arc_e", "--seed", "-1"], "The seed -1 is out of range"),
        (
            ["--method", "ivon", "--task", "arc_e", "--set", "steps=\n5\nlora.r=4"],
            "write one setting, and repeat --set",
        ),
    ],
)
def test_mistakes_get_a_sentence_before_anything_is_computed(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


METHOD = """
from dataclasses import dataclass
from typing import Annotated
from bench.method import Method, register_method
from bench.options import Predict
@register_method
@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    name, title, base = "{name}", "Mine", "adamw"
    k: Annotated[int, Predict("a number")] = 1
"""


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("mine_typed", "class Mine", "class Mine(:", "cannot be imported (SyntaxError"),
        ("mine_plain", 'Annotated[int, Predict("a number")]', "int", "Mine.k: annotate it as Annotated[int, Fit("),
        ("mine_bare", "@dataclass(frozen=True, kw_only=True)\n", "", "Mine is not a dataclass: decorate it"),
        ("mine_round", '"adamw"', '"mine_round"', "go in a circle: mine_round -> mine_round"),
        ("mine_alone", '"adamw"', "None", "'mine_alone' neither fits nor names a base"),
        ("mine_tunes", "    k:", "    tunes = True\n    k:", "'mine_tunes' tunes: define fit(job)"),
        ("mine_range", 'number")', 'number", ge=2)', "The default of Mine.k is 1: must be at least 2."),
    ],
)
def test_a_plugin_that_breaks_the_interface_gets_a_sentence(
    name: str,
    old: str,
    new: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = METHOD.replace("{name}", name)
    assert old in text
    (tmp_path / f"{name}.py").write_text(text.replace(old, new))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))
    assert main(["run", "--method", name, "--task", "notes_two", "--plugin", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: ") and sentence in error


def test_a_failing_family_leaves_the_others_and_its_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))
    (tmp_path / "broken_here.py").write_text(
        "from dataclasses import dataclass\nfrom bench.method import Method, register_method\n"
        "@register_method\n@dataclass(frozen=True, kw_only=True)\n"
        "class Broken(Method):\n    '''Fails.'''\n    name, title = 'broken', 'Broken'\n"
        "    def fit(self, job):\n        raise RuntimeError('no luck')\n"
    )
    (tmp_path / "g.toml").write_text(
        'methods = ["broken", "adamw"]\ntasks = ["notes_two"]\nseeds = [1]\nplugins = ["broken_here"]\n'
        "[set]\nsteps = 2\n"
    )
    for workers in ("1", "2"):
        done = bench("grid", "g.toml", "--workers", workers, "--runs", f"runs{workers}", cwd=tmp_path, check=1)
        assert "RuntimeError: no luck" in done.stderr
        (failure,) = (tmp_path / f"runs{workers}/failures").glob("*.json")
        assert "Traceback" in json.loads(failure.read_text())["trace"]
        assert len(list((tmp_path / f"runs{workers}/evals").glob("[0-9a-f]*"))) == 1
        status = bench("status", "g.toml", "--runs", f"runs{workers}", cwd=tmp_path, check=1).stdout
        assert "failed   broken" in status and "done     adamw" in status


def test_plugins_of_every_kind_go_through_grid_and_leaderboard(tmp_path: Path) -> None:
    (tmp_path / "plug.toml").write_text(
        'methods = ["adamw", "softened", "bbb", "sgld"]\ntasks = ["colours"]\nseeds = [1]\n'
        'plugins = ["softened", "bayes_by_backprop", "colours"]\n[set]\nsteps = 8\n'
    )
    bench("grid", "plug.toml", "--workers", "2", cwd=tmp_path)
    bench("leaderboard", cwd=tmp_path)
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"adamw", "softened", "bbb", "sgld"}
    assert {row["task"] for row in rows} == {"colours"}
    assert len(list((tmp_path / "runs/fits").glob("[0-9a-f]*"))) == 3  # softened borrows adamw's


def test_list_shows_methods_tasks_and_plugins(tmp_path: Path) -> None:
    text = bench("list", "methods", "--plugin", "bayes_by_backprop", cwd=tmp_path).stdout
    assert "ivon_mean  -  IVON (mean), from ivon" in text and "tau = 1.0 [prediction only]" in text and "bbb" in text
    assert "NAME_ts  -  NAME, with its log-probabilities divided by one temperature." in text
    assert "adapter  -  Predicts with the adapter that ``--adapter`` names." in text
    assert "NAME_adapter  -  NAME on the adapter" in text
    tasks = {row["name"]: row for row in json.loads(bench("list", "tasks", "--json", cwd=tmp_path).stdout)}
    assert tasks["arc_e"]["rows"]["train"] == 2251 and tasks["boolq"]["licence"] == "CC BY-SA 3.0"


def test_tune_writes_its_choice_and_the_grid_uses_it(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(
        'methods = ["adamw", "ivon"]\ntasks = ["notes_two"]\nseeds = [1]\n[set]\nsteps = 20\n'
        '[variants.tuned]\ninclude = "t.tuned.toml"\n[tune]\nholdout = 0.25\nseeds = [5]\n'
        "[tune.adamw]\nlr = [1e-9, 3e-3]\n[tune.ivon]\nlr = [1e-9, 1.0]\n"
    )
    bench("tune", "t.toml", cwd=tmp_path)
    rows = list(csv.DictReader((tmp_path / "t.tune.csv").read_text().splitlines()))
    assert [row["settings"] for row in rows if row["method"] == "adamw"] == ["lr=1e-09", "lr=0.003"]
    for method in ("adamw", "ivon"):
        mine = [row for row in rows if row["method"] == method]
        assert [row["chosen"] for row in mine] == [
            "yes" if row["mean_nll"] == min(r["mean_nll"] for r in mine) else "" for row in mine
        ]
    bench("grid", "t.toml", cwd=tmp_path)
    bench("leaderboard", cwd=tmp_path)
    board = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines()))
    assert {row["variant"] for row in board} == {"tuned"} and {row["split"] for row in board} == {"validation"}


def test_a_candidate_that_diverges_is_scored_as_such_and_not_tried_again(tmp_path: Path) -> None:
    text = (
        'methods = ["adamw", "softened"]\ntasks = ["notes_two"]\nseeds = [1]\nplugins = ["softened"]\n'
        "[set]\nsteps = 6\n[tune]\nseeds = [5]\n[tune.adamw]\nlr = [1e30, 1e-3]\n"
    )
    (tmp_path / "t.toml").write_text(text)
    said = bench("tune", "t.toml", cwd=tmp_path).stderr
    assert "FloatingPointError: The training loss is" in said
    bad, good = csv.DictReader((tmp_path / "t.tune.csv").read_text().splitlines())
    assert (bad["notes_two"], bad["mean_nll"], bad["chosen"]) == ("diverged", "diverged", "")
    assert float(good["mean_nll"]) > 0 and good["chosen"] == "yes"
    assert bench("tune", "t.toml", cwd=tmp_path).stderr == ""
    assert len(list((tmp_path / "runs" / "failures").iterdir())) == 1

    (tmp_path / "all.toml").write_text(text.replace("1e-3]", "9e29]"))
    assert "Every candidate of adamw diverged" in bench("tune", "all.toml", cwd=tmp_path, check=2).stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "list", "methods", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as listing:  # type: ignore[call-overload]
        listing.stdout.close()
        assert listing.stderr.read() == "" and listing.wait() == 141


def test_show_names_a_file_that_is_not_all_there(grid_store: Path, tmp_path: Path) -> None:
    shutil.copytree(grid_store / "runs", tmp_path / "runs")
    folder = next((tmp_path / "runs" / "evals").glob("[0-9a-f]*"))
    (folder / "facts.json").write_text((folder / "facts.json").read_text()[:-40])
    said = bench("show", folder.name, cwd=tmp_path, check=2).stderr
    assert f"{folder.relative_to(tmp_path)}/facts.json is damaged" in said and "Traceback" not in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_gpu_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    asked = ["run", "--method", "adamw", "--task", "notes_two", "--set", "steps=1", "--device", "cuda:1"]
    assert "--device cuda:1: torch sees 0 GPU(s) here." in bench(*asked, cwd=tmp_path, check=2).stderr


def test_a_tuning_that_chooses_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(
        'methods = ["adamw", "la_diag"]\ntasks = ["notes_two"]\nseeds = [1]\n[set]\nsteps = 2\n[tune]\nseeds = [5]\n'
        "[tune.adamw]\nlr = [1e-4, 1e-3]\n[tune.la_diag]\nprior_precision = [1, 10]\n"
    )
    said = bench("tune", "t.toml", "--launcher", "print", cwd=tmp_path, check=1)
    assert "Nothing was chosen: 2 families of adamw have no score." in said.stderr
    assert "Nothing is chosen yet: 2 families of adamw" in bench("tune", "t.toml", "--dry-run", cwd=tmp_path).stderr
    assert not (tmp_path / "t.tuned.toml").exists()
    refused = bench("grid", "t.toml", "--launcher", "print", "--wait", cwd=tmp_path, check=2).stderr
    assert "--wait means nothing to the launcher 'print'" in refused
