"""What can be known to stop the work is told before the first family, once, and nothing is stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mirrors import mirror
from support import compute, plan

from bench.cli.main import main
from bench.data.splits import DataSource
from bench.errors import ModelNotUsable
from bench.model.formats import EMBEDDED
from bench.plan.base_model import choose_model
from bench.plan.preflight import preflight
from bench.plan.runs import families, plan_run
from bench.specs import Family, RunSpec
from bench.store.store import Store

GRID = 'methods = ["adamw", "la_kfac"]\ntasks = ["notes_two", "notes_four"]\nseeds = [1, 2]\n[set]\nsteps = 2\n'


def check(run: RunSpec, runs: Path, source: DataSource | None = None, folder: Path | None = None) -> None:
    preflight(families([run]), Store(runs), source or DataSource(), folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora": {"targets": ["q_prj"]}}, "embedded has no layer 'q_prj' for LoRA. Did you mean 'q_proj'"),
        ({"lora": {"targets": ["q_proj", "*.v_prj"]}}, r"embedded has no layer '\*\.v_prj' for LoRA"),
    ],
)
def test_adapters_on_layers_that_the_base_lacks_are_refused(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        check(plan("adamw", **settings), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_grid_is_refused_once_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.toml").write_text(GRID + 'lora.targets = ["q_prj"]\n')
    assert main(["grid", str(tmp_path / "g.toml"), "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.count("q_prj") == 1
    assert not (tmp_path / "runs").exists()


def local_base(folder: Path) -> Path:
    shutil.copytree(EMBEDDED, folder)
    return folder


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json"])
def test_a_model_folder_that_cannot_be_used_is_refused(tmp_path: Path, damage: str) -> None:
    folder = local_base(tmp_path / "base")
    (folder / damage).write_text("{}")
    model, path = choose_model({"id": str(folder)})
    run = plan_run("adamw", "notes_two", 1, settings={}, model=model, source=DataSource())
    with pytest.raises(ValueError, match=r"cannot be loaded"):
        check(run, tmp_path / "runs", folder=path)


@pytest.mark.parametrize(
    ("setting", "lacking"),
    [
        ({"num_hidden_layers": 9}, "model.layers.2.input_layernorm.weight"),
        ({"intermediate_size": 64}, "model.layers.0.mlp.down_proj.weight"),
        ({"vocab_size": 9000}, "lm_head.weight"),
    ],
)
def test_a_configuration_that_its_weights_do_not_fit_is_refused(
    tmp_path: Path, setting: dict[str, int], lacking: str
) -> None:
    folder = local_base(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    assert all(config[name] != value for name, value in setting.items())
    (folder / "config.json").write_text(json.dumps(config | setting))
    model, path = choose_model({"id": str(folder)})
    run = plan_run("adamw", "notes_two", 1, settings={}, model=model, source=DataSource())
    with pytest.raises(ModelNotUsable, match=rf"such as {lacking}"):
        check(run, tmp_path / "runs", folder=path)
    assert not (tmp_path / "runs").exists()


def test_a_mirror_without_the_rows_that_are_needed_is_refused(tmp_path: Path) -> None:
    source = DataSource(mirror(tmp_path / "mirror", train=640, validation=1267))
    model, _ = choose_model({})
    run = plan_run("adamw", "wg_s", 1, settings={}, model=model, source=source)
    check(run, tmp_path / "runs", source)
    for file in (tmp_path / "mirror").rglob("validation-*.parquet"):
        file.unlink()
    with pytest.raises((OSError, ValueError), match=r"wg_s|validation"):
        check(run, tmp_path / "runs", source)


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(NotADirectoryError, match="--runs"):
        check(plan("adamw"), tmp_path / "runs")


def test_what_is_stored_needs_neither_base_nor_training_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan("bayes_optimal")
    compute(run, tmp_path)
    for name in ("check_rows", "check_outline"):
        monkeypatch.setattr(f"bench.plan.preflight.{name}", lambda needed, *_: [pytest.fail(str(x)) for x in needed])
    check(run, tmp_path)


def test_a_method_without_a_model_needs_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.plan.preflight.check_outline", lambda *_: pytest.fail("it was looked at"))
    check(plan("bayes_optimal"), tmp_path)


def test_rows_to_tune_on_are_needed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[tuple[str, str]] = []
    monkeypatch.setattr("bench.plan.preflight.check_outline", lambda *_: None)
    monkeypatch.setattr(
        "bench.plan.preflight.check_rows", lambda pairs, _: needed.extend((data.task, split) for data, split in pairs)
    )
    family: Family = families([plan("temperature", protocol="clean")])[0]
    preflight([family], Store(tmp_path), DataSource(), None)
    assert set(needed) == {("notes_two", "train"), ("notes_two", "validation"), ("notes_two", "test")}


def test_too_few_rows_to_set_some_aside_are_told_before_the_base_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"question {number},{'AB'[number % 2]}\n" for number in range(4))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("question,answer\n" + rows)
    (tmp_path / "tiny.toml").write_text(
        'prompt = "{question} Answer:"\nlabel = "answer"\nlabels = ["A", "B"]\n'
        '[splits]\ntrain = "train.csv"\nvalidation = "validation.csv"\n'
    )
    runs = tmp_path / "runs"
    arguments = ["run", "--method", "temperature", "--task", str(tmp_path / "tiny.toml"), "--runs", str(runs)]
    assert main([*arguments, "--set", "steps=2"]) == 2
    said = capsys.readouterr().err
    assert "A holdout of 0.1 leaves 4 to train on and 0 to tune or score on, of 4 examples" in said
    assert "FAILED" not in said and not (runs / "failures").exists()
