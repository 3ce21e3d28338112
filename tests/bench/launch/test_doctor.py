"""`bench doctor`: a line for each check, ok or the fix."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import bench

from bench.launch import doctor
from bench.launch.doctor import Finding, Verdict, examine

GRID = 'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1]\n'


def found(runs: Path, *arguments: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(runs, *arguments)}


def test_every_line_has_a_verdict_and_a_text(tmp_path: Path) -> None:
    said = bench("doctor", cwd=tmp_path, check=None).stdout
    lines = said.splitlines()
    assert len(lines) >= 10
    assert all(re.fullmatch(r"(ok   |note |fix  ) \S+ +\S.*", line) for line in lines), said
    names = {line.split()[1] for line in lines}
    assert {"Python", "packages", "accelerator", "bitsandbytes", "hub", "launchers", "store", "disk"} <= names
    assert not (tmp_path / "runs").exists()


def test_a_grid_that_fits_is_ok_and_one_that_does_not_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    said = bench("doctor", "g.toml", cwd=tmp_path, check=None).stdout
    assert re.search(r"^ok +grid +g: 1 family$", said, re.MULTILINE)
    assert re.search(r"^ok +data +notes_two: all rows are there$", said, re.MULTILINE)
    (tmp_path / "bad.toml").write_text(GRID.replace("adamw", "adamv"))
    said = bench("doctor", "bad.toml", cwd=tmp_path, check=1).stdout
    assert re.search(r"^fix +grid +There is no method 'adamv'", said, re.MULTILINE) and "Python" in said


def test_what_is_lacking_is_to_be_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert found(tmp_path / "file" / "runs")["store"].verdict == Verdict.FIX
    disk = shutil._ntuple_diskusage(10, 9, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: disk)
    monkeypatch.setattr(doctor, "_free_memory", lambda: 2**30)
    findings = found(tmp_path)
    assert findings["disk"].verdict == Verdict.FIX and "--runs" in findings["disk"].text
    assert findings["memory"].verdict == Verdict.NOTE and "1.0 GiB free" in findings["memory"].text


def test_a_package_that_is_too_old_or_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "no-such-package>=1", 'only-on-mars>=1; sys_platform == "mars"', "numpy>=1"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    finding = found(tmp_path)["packages"]
    assert finding.verdict == Verdict.FIX
    assert "torch" in finding.text and "needs >=99" in finding.text and "no-such-package (missing)" in finding.text
    assert "mars" not in finding.text and "numpy" not in finding.text


def test_a_check_that_breaks_is_a_finding_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("odd\nkernel")

    monkeypatch.setattr(doctor, "_free_memory", broken)
    findings = found(tmp_path)
    assert findings["memory"].text == "cannot be checked (RuntimeError: odd kernel)" and "disk" in findings


@pytest.mark.parametrize(
    ("error", "verdict", "text"),
    [("gated", Verdict.FIX, "accept its licence"), ("private", Verdict.FIX, "check the name and the token")],
)
def test_access_to_a_model_on_the_hub(
    error: str, verdict: Verdict, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    kind = {"gated": GatedRepoError, "private": RepositoryNotFoundError}[error]

    def check(name: str) -> None:
        raise kind.__new__(kind)  # without a response

    monkeypatch.setattr("huggingface_hub.auth_check", check)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    (tmp_path / "g.toml").write_text(GRID + f'[model]\nid = "owner/name"\nrevision = "{"0" * 40}"\n')
    from bench.plan.grid import read_grid

    finding = found(tmp_path, lambda: read_grid(tmp_path / "g.toml"))["model"]
    assert finding.verdict == verdict and text in finding.text and "owner/name" in finding.text


def test_a_mirror_that_is_not_there(tmp_path: Path) -> None:
    from bench.plan.grid import read_grid

    (tmp_path / "g.toml").write_text('data_dir = "mirror"\n' + GRID.replace("notes_two", "arc_e"))
    findings = found(tmp_path, lambda: read_grid(tmp_path / "g.toml"))
    assert findings["hub"].verdict == Verdict.FIX and "mirror" in findings["hub"].text
    assert findings["data"].verdict == Verdict.FIX and "arc_e" in findings["data"].text


def test_tasks_that_are_only_scored_on_need_rows_too(tmp_path: Path) -> None:
    from bench.plan.grid import read_grid

    (tmp_path / "mirror").mkdir()
    (tmp_path / "g.toml").write_text('data_dir = "mirror"\n' + GRID + '[eval]\nnotes_two = ["wg_s"]\n')
    finding = found(tmp_path, lambda: read_grid(tmp_path / "g.toml"))["data"]
    assert finding.verdict == Verdict.FIX and "wg_s" in finding.text
