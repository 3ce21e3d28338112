"""A store of an earlier commit, read by the code as it is now (tests/fixtures/earlier_store/README.txt).

Stored results outlive code changes: keys, states, tables and, on the same processor, every byte of a refit.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processor import fingerprint
from safetensors.numpy import load_file
from support import bench

from analysis import report as reporting
from analysis.records.names import lost_as_number

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "earlier_store"
EXPECTED = FIXTURE / "expected"
REPOSITORY = FIXTURE.parent.parent.parent
GRIDS = ("coins", "notes", "open")
RESULT = ("posterior.safetensors", "predictions.safetensors")
TABLES = sorted(file.name for file in (EXPECTED / "report").glob("*.csv"))


def unpack(folder: Path) -> Path:
    """``folder`` with the earlier grids and, in ``runs``, the earlier store; its claim is as old as it says."""
    shutil.copytree(FIXTURE / "grids", folder, dirs_exist_ok=True)
    with tarfile.open(FIXTURE / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for claim in (folder / "runs" / "claims").iterdir():
        os.utime(claim, (0, 0))
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The earlier store, to read from."""
    return unpack(tmp_path_factory.mktemp("earlier"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The earlier store, to write to."""
    return unpack(tmp_path)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def states(folder: Path, grid: str) -> dict[str, Any]:
    """What `bench status` says of a grid, in the form of ``expected/status.json``."""
    said = json.loads(bench("status", f"{grid}.toml", "--json", cwd=folder, check=None).stdout)
    return {
        "counts": said["counts"],
        "families": {family["key"]: family["state"] for family in said["families"]},
        "evaluations": {run["key"]: run["state"] for family in said["families"] for run in family["runs"]},
    }


def results(runs: Path) -> dict[str, bytes]:
    """Every file of every fit and evaluation."""
    return {
        str(file.relative_to(runs)): file.read_bytes()
        for kind in ("fits", "evals")
        for file in sorted((runs / kind).rglob("*"))
        if file.is_file()
    }


def skip_on_another_processor() -> None:
    """Bytes of float32 arithmetic can only be compared where it is the same."""
    recorded = json.loads((EXPECTED / "processor.json").read_text())
    differing = [name for name, value in fingerprint().items() if recorded[name] != value]
    if differing:
        pytest.skip(f"the earlier store was computed with another {' and '.join(differing)} than this machine has")


def assert_rows(found: list[dict[str, str]], expected: list[dict[str, str]]) -> None:
    """The same rows in the same order, as far as the columns of ``expected`` tell; numbers to six decimals."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        for column, value in theirs.items():
            if column == "settings" and lost_as_number(value):  # 4203e969 was an id: spreadsheets showed a number
                assert not lost_as_number(mine[column])
                continue
            try:
                assert float(mine[column]) == pytest.approx(float(value), abs=1.5e-6), (column, mine, theirs)
            except ValueError:
                assert mine[column] == value, (column, mine, theirs)


# --- keys and states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_every_planned_key_and_state_is_as_before(earlier: Path, grid: str) -> None:
    assert states(earlier, grid) == json.loads((EXPECTED / "status.json").read_text())[grid]


@pytest.mark.parametrize("grid", ["coins", "notes"])
def test_a_finished_grid_and_its_search_compute_nothing(earlier: Path, grid: str) -> None:
    before = {file: file.stat().st_mtime_ns for file in (earlier / "runs").rglob("*")}
    bench("grid", f"{grid}.toml", "--device", "cpu", cwd=earlier)
    if grid == "coins":
        bench("tune", "coins.toml", "--device", "cpu", cwd=earlier)
        assert rows(earlier / "coins.tune.csv") == rows(FIXTURE / "grids" / "coins.tune.csv")
    assert {file: file.stat().st_mtime_ns for file in (earlier / "runs").rglob("*")} == before


def planned(grid: Path, folder: Path) -> set[str]:
    """The keys of all evaluations of a grid."""
    said = json.loads(bench("status", str(grid), "--json", cwd=folder, check=1).stdout)
    return {run["key"] for family in said["families"] for run in family["runs"]}


def keys_of(table: Iterable[dict[str, str]]) -> set[str]:
    return {key for row in table for key in row["keys"].split()}


def test_the_demo_of_the_earlier_commit_still_has_the_keys_of_its_leaderboard(tmp_path: Path) -> None:
    golden = rows(EXPECTED / "demo_keys.csv")
    keys = planned(FIXTURE / "grids" / "demo.toml", tmp_path)
    lost = [row for row in golden if not set(row["keys"].split()) <= keys]
    assert not lost and len(keys_of(golden)) > 100


@pytest.mark.parametrize(("grid", "table"), [("demo", "leaderboard.csv"), ("ablations", "results/demo/ablations.csv")])
def test_a_grid_has_every_key_of_its_committed_table(grid: str, table: str, tmp_path: Path) -> None:
    demo = [row for row in rows(REPOSITORY / table) if row["model"] == "embedded"]
    assert demo and keys_of(demo) <= planned(REPOSITORY / "bench" / "grids" / f"{grid}.toml", tmp_path)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_leaderboard_has_the_same_rows(earlier: Path) -> None:
    bench("leaderboard", cwd=earlier)
    assert_rows(rows(earlier / "leaderboard.csv"), rows(EXPECTED / "leaderboard.csv"))


@pytest.fixture(scope="module")
def report(earlier: Path) -> Path:
    """The report of the earlier store, its figures left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "FIGURES", type(reporting.FIGURES)())
        bench("report", "--out", "report", cwd=earlier)
    return earlier / "report"


@pytest.mark.parametrize("name", TABLES)
def test_the_report_has_the_same_table(report: Path, name: str) -> None:
    (file,) = report.rglob(name)
    assert_rows(rows(file), rows(EXPECTED / "report" / name))


def test_the_report_shows_the_same_numbers(report: Path) -> None:
    """Of the tables that have no CSV of their own, such as those of settings and tuning, too."""
    shown = "\n".join(file.read_text() for file in sorted(report.rglob("*.md")))
    decimals = re.compile(r"\d+\.\d+")
    before = Counter(decimals.findall((EXPECTED / "report" / "tables.md").read_text()))
    assert len(before) > 500 and not before - Counter(decimals.findall(shown))


# --- stored files -----------------------------------------------------------------------------------------------------


def test_merging_copies_every_result_as_it_is(earlier: Path, tmp_path: Path) -> None:
    bench("merge", str(earlier / "runs"), cwd=tmp_path)
    assert results(tmp_path / "runs") == results(earlier / "runs")
    for kind, count in json.loads((EXPECTED / "merge.json").read_text()).items():
        assert len(list((tmp_path / "runs" / kind).iterdir())) == count
    bench("merge", str(earlier / "runs"), cwd=tmp_path)  # the same results again: no conflict


@pytest.mark.parametrize("kind", ["fits", "evals"])
def test_show_finds_every_result(earlier: Path, kind: str) -> None:
    for folder in (earlier / "runs" / kind).iterdir():
        shown = json.loads(bench("show", folder.name, cwd=earlier).stdout)
        assert shown["spec"] == json.loads((folder / "spec.json").read_text())
        assert shown["facts"] == json.loads((folder / "facts.json").read_text())


def test_stored_posteriors_of_every_kind_predict_as_before(copy: Path) -> None:
    taken = {}
    for folder in sorted((copy / "runs" / "evals").iterdir()):
        spec = json.loads((folder / "spec.json").read_text())
        if (spec["fit"]["seed"], spec["data"]["task"], spec["variant"]) == (1, "coins", "plain"):
            taken[folder.name] = spec["method"], load_file(folder / "predictions.safetensors")
            shutil.rmtree(folder)
    fits = results(copy / "runs")
    bench("grid", "coins.toml", "--device", "cpu", cwd=copy)
    assert {method for method, _ in taken.values()} >= {"zero_shot", "temperature", "la_kfac", "ensemble", "multi_swag"}
    for name, (method, before) in taken.items():
        after = load_file(copy / "runs" / "evals" / name / "predictions.safetensors")
        assert after.keys() == before.keys()
        for array in before:
            np.testing.assert_allclose(after[array], before[array], rtol=1e-3, atol=1e-4, err_msg=f"{method} {array}")
    after_all = results(copy / "runs")
    assert all(after_all[name] == content for name, content in fits.items())


def only(grid: str, methods: list[str], folder: Path) -> str:
    """The name of a grid file in ``folder``: an earlier grid with these methods only."""
    text = (FIXTURE / "grids" / f"{grid}.toml").read_text()
    (folder / "only.toml").write_text(re.sub(r"^methods = .*$", f"methods = {json.dumps(methods)}", text, flags=re.M))
    return "only.toml"


@pytest.mark.parametrize("method", ["adamw", "swa", "ivon"])
def test_a_refit_gives_the_bytes_of_before(earlier: Path, tmp_path: Path, method: str) -> None:
    skip_on_another_processor()
    wanted = {"adamw": ["adamw"], "swa": ["swa", "swag"], "ivon": ["ivon_mean", "ivon"]}[method]
    bench("grid", only("notes", wanted, tmp_path), "--device", "cpu", cwd=tmp_path)
    refitted = [file for name in RESULT for file in (tmp_path / "runs").rglob(name)]
    assert len(refitted) == 1 + len(wanted)
    for file in refitted:
        assert file.read_bytes() == (earlier / file.relative_to(tmp_path)).read_bytes(), file


# --- work that was under way ------------------------------------------------------------------------------------------


def open_family(folder: Path, method: str) -> tuple[Path, int, dict[str, Any]]:
    """(file of the submission, number of a method's family in it, that family)."""
    (file,) = (folder / "runs" / "submissions").glob("*/families.jsonl")
    sent = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    (number,) = [n for n, family in enumerate(sent) if family["label"].startswith(f"{method} ")]
    return file, number, sent[number]


def test_a_claim_of_before_is_alive_while_it_is_fresh(copy: Path) -> None:
    _, _, family = open_family(copy, "adamw")
    assert states(copy, "open")["families"][family["key"]] == "missing"
    os.utime(copy / "runs" / "claims" / f"{family['key']}.json")
    assert states(copy, "open")["families"][family["key"]] == "running"


def test_a_checkpoint_that_no_digest_vouches_for_is_not_continued(copy: Path) -> None:
    """Earlier checkpoints name neither their digest nor the code that wrote them: the training starts again."""
    file, number, family = open_family(copy, "adamw")
    bench("family", str(file), "--item", str(number), cwd=copy)
    fit = copy / "runs" / "fits" / family["key"]
    attempts = json.loads((fit / "facts.json").read_text())["attempts"]
    assert [attempt["from_step"] > 0 for attempt in attempts] == [False, False]
    skip_on_another_processor()
    bench("grid", only("open", ["adamw"], copy), "--device", "cpu", "--runs", "whole", cwd=copy)
    name = "posterior.safetensors"
    assert (fit / name).read_bytes() == (copy / "whole" / "fits" / family["key"] / name).read_bytes()


def test_a_family_that_was_sent_is_computed(copy: Path) -> None:
    file, number, family = open_family(copy, "swa")
    bench("family", str(file), "--item", str(number), cwd=copy)
    after = states(copy, "open")
    assert after["families"][family["key"]] == "done"
    assert {after["evaluations"][key] for key in family["keys"]} == {"done"}


def test_a_failure_of_before_is_shown_and_counted(copy: Path) -> None:
    _, _, family = open_family(copy, "ivon")
    assert "FloatingPointError: The training loss is nan" in bench("logs", family["key"], cwd=copy).stdout
    bench("grid", only("open", ["ivon"], copy), "--retries", "1", cwd=copy, check=1)  # given up: not tried again
    assert len(list((copy / "runs" / "failures").iterdir())) == 1
