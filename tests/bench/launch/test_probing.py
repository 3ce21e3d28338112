"""The probe in several processes: whole families of kinds in each, and nothing twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import PATIENCE, until
from support import plan

from bench.launch.probing import dealt, probed
from bench.plan.runs import fits_of
from bench.process import gpus
from bench.run.execution import Execution
from bench.run.probe import fit_kind, run_kind

ROOT = Path(__file__).resolve().parents[3]
RUNS = [
    plan(method, "colours", seed) for seed in (1, 2) for method in ("adamw", "mc_dropout", "la_diag", "ivon", "map")
]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_shares_a_training_is_probed_in_one_process(count: int) -> None:
    fits = list(fits_of(RUNS).values())
    parts = dealt(fits, RUNS, count)
    assert len(parts) == count  # of three families: adamw's, ivon's and map's
    roots = [{fit_kind(run.fit.root) for run in runs} | {fit_kind(fit.root) for fit in made} for made, runs in parts]
    assert all(roots) and sum(map(len, roots)) == 3
    assert sorted(map(id, RUNS)) == sorted(id(run) for _, runs in parts for run in runs)
    assert len(fits) == sum(len(made) for made, _ in parts)


def test_workers_without_work_of_their_own_measure_the_same_again() -> None:
    made, runs = list(fits_of(RUNS[3:4]).values()), RUNS[3:4]
    assert dealt(made, runs, 2) == [(made, runs)] * 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "visible", list)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    runs = [plan(method, "notes_two") for method in ("adamw", "map")]
    found = probed(Execution(device="cpu"), list(fits_of(runs).values()), runs, workers=2)
    assert set(found.fits) == {fit_kind(run.fit) for run in runs} and set(found.runs) == {run_kind(run) for run in runs}
    assert all(cost.step.at(100) > 0 for cost in found.fits.values()) and found.start > 0 and found.memory_mib > 50


@pytest.mark.slow
def test_processes_that_measure_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(
        'methods = ["adamw", "ivon", "swa", "map"]\ntasks = ["notes_two", "notes_four"]\nseeds = [1]\n'
        "[set]\nsteps = 3000\n"
    )
    command = [sys.executable, "-m", "bench", "plan", "g.toml", "--workers", "2", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: len(of_session(process.pid)) >= 4)  # itself, the server of workers and two of them, at least
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=PATIENCE)
    until(lambda: not of_session(process.pid))


def of_session(leader: int) -> list[int]:
    """The processes of a session that are no zombies."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(file.parent.name))
    return found
