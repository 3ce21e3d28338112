"""A real SLURM runs the grid: same bytes as the local launcher, whatever happens to jobs and nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, until
from slurm_cluster import INSTALL, Cluster, missing_programs
from support import Said, bench
from unhurried import PAUSE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
PATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests/plugins")))
RESULTS = ("posterior.safetensors", "predictions.safetensors", "spec.json")
BROKEN = """
from dataclasses import dataclass
from bench.method import Method
from bench.method import register_method

@register_method
@dataclass(frozen=True, kw_only=True)
class Broken(Method):
    '''Fails.'''
    name, title = "broken", "Broken"

    def fit(self, job):
        raise RuntimeError("no luck")
"""
SLURM = """
[slurm]
partition = "main"
gres = "gpu:1"
time = "10"
"""
GRID = """
methods = ["adamw", "ivon_mean", "ivon"]
tasks = ["notes_two"]
seeds = [1, 2]
[set]
steps = 6
"""
LONG = """
methods = ["unhurried"]
tasks = ["notes_two"]
seeds = [1, 2, 3, 4]
plugins = ["unhurried"]
[set]
steps = 150
"""
QUICK = ("--checkpoint-seconds", "0.3", "--claim-seconds", "4")


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    """SLURM's programs. BENCH_REQUIRE_SLURM makes their absence an error."""
    missing = missing_programs()
    if missing:
        sentence = f"no {', '.join(missing)} here; on Debian, as root: apt-get update && {INSTALL}"
        if os.environ.get("BENCH_REQUIRE_SLURM"):
            raise RuntimeError(sentence)
        pytest.skip(sentence)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster as the test's mark says."""
    made = Cluster(**request.param)
    yield made
    made.stop()


class There:
    """The command line in a folder, with a cluster: in this process, which has nothing left to load, or in its own."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.environment = {**cluster.environment, "PYTHONPATH": PATH, "HF_HUB_OFFLINE": "1"}

    def __call__(self, *arguments: str, check: int | None = 0) -> Said:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return bench(*arguments, cwd=self.folder, check=check)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "bench", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def states(self, grid: str) -> dict[str, dict[str, Any]]:
        """What `bench status` says of each family at this moment, by its label."""
        return by_label(self("status", grid, "--json", check=None).stdout)


def by_label(shown: str) -> dict[str, dict[str, Any]]:
    """The families that `bench status --json` shows."""
    return {row["label"]: row for row in json.loads(shown)["families"]}


def results(runs: Path) -> dict[str, bytes]:
    """The files that must not depend on where, when or in how many attempts they were computed."""
    files = [file for kind in ("fits", "evals") for file in (runs / kind).rglob("*") if file.name in RESULTS]
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


def attempts(runs: Path) -> dict[int, list[dict[str, Any]]]:
    """The attempts at each fit of one method, by seed."""
    found = {}
    for folder in (runs / "fits").iterdir():
        seed = json.loads((folder / "spec.json").read_text())["seed"]
        found[seed] = json.loads((folder / "facts.json").read_text())["attempts"]
    return found


@pytest.mark.parametrize("cluster", [{"nodes": 1, "slots": 4, "max_array": 3}], indirect=True)
def test_a_grid_submitted_twice_at_once_runs_once_and_gives_the_bytes_of_the_local_launcher(
    cluster: Cluster, tmp_path: Path
) -> None:
    tmp_path /= "a 100% ready grid"  # a name that SLURM reads in its own way
    tmp_path.mkdir()
    there = There(tmp_path, cluster)
    (tmp_path / "g.toml").write_text(GRID + SLURM)
    (tmp_path / "broken.py").write_text(BROKEN)
    bad = 'methods = ["broken"]\ntasks = ["notes_two"]\nseeds = [1]\nplugins = ["broken"]\n'
    (tmp_path / "bad.toml").write_text(bad + SLURM)
    both = [there.start("grid", "g.toml", "--launcher", "slurm", "--wait", *QUICK) for _ in range(2)]
    failing = there.start("grid", "bad.toml", "--launcher", "slurm", "--wait", *QUICK)
    scripts = until(lambda: sorted(tmp_path.glob("runs/submissions/*/array-3.sh")))  # MaxArraySize is 3
    for script in scripts:  # `bench grid` may have seen the other's jobs; these come twice for certain
        for array in ("array-0.sh", script.name):
            cluster.run("sbatch", "--chdir", str(tmp_path), str(script.with_name(array)))
    said = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert any("submitted 3 families" in text and "submitted 1 family" in text for text in said)

    said = failing.communicate(timeout=PATIENCE)[0]  # a family with an error is reported, and leaves the others alone
    assert failing.returncode == 1 and "RuntimeError: no luck" in said
    look = there.start("status", "bad.toml", "--json")  # not here: it loads the plug-in
    shown = look.communicate(timeout=PATIENCE)[0]
    row = by_label(shown)["broken notes_two seed 1"]
    assert (row["state"], row["failures"], row["reason"]) == ("failed", 1, "RuntimeError: no luck")
    assert "raise RuntimeError" in there("logs", row["key"]).stdout

    until(lambda: not cluster.run("squeue", "-h"))
    fits = [json.loads(file.read_text()) for file in tmp_path.glob("runs/fits/*/facts.json")]
    assert [len(fit["attempts"]) for fit in fits] == [1] * 4  # each family was computed once
    gpus = [fit["attempts"][0]["gpus"] for fit in fits]
    assert set(gpus) <= {"0", "1", "2", "3"} and len(set(gpus)) > 1  # each job saw one GPU, its own
    for fit in fits:
        (attempt,) = fit["attempts"]
        assert attempt["node"] == "n1" and attempt["restart"] == 0 and attempt["from_step"] == 0
        assert any(attempt["job"].startswith(folder.name) for folder in tmp_path.glob("runs/submissions/*"))

    logs = "".join(file.read_text() for file in tmp_path.glob("runs/submissions/*/logs/*.log"))
    assert logs.count("] done: ") == 4 and logs.count("this family is done") + logs.count("is being computed on") >= 4
    assert "0 families submitted" in there("grid", "g.toml", "--launcher", "slurm").stderr
    there("grid", "g.toml", "--runs", "local")
    assert results(tmp_path / "local") == results(tmp_path / "runs") and len(results(tmp_path / "local")) == 20
    for runs in ("local", "runs"):
        there("leaderboard", "--runs", runs, "--out", f"{runs}.csv")
    assert (tmp_path / "local.csv").read_bytes() == (tmp_path / "runs.csv").read_bytes()


@pytest.mark.parametrize("cluster", [{"nodes": 2, "slots": 4}], indirect=True)
def test_jobs_that_are_killed_requeued_warned_or_lose_their_node_end_with_the_same_bytes(
    cluster: Cluster, tmp_path: Path
) -> None:
    there = There(tmp_path, cluster)
    (tmp_path / "g.toml").write_text(LONG + SLURM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(there.environment, PAUSE, "0.1")  # of the jobs
        there("grid", "g.toml", "--launcher", "slurm", *QUICK)

    def training(seed: int) -> dict[str, Any]:
        """The claim of a family, once it has a checkpoint."""

        def look() -> dict[str, Any]:
            for file in (tmp_path / "runs/claims").glob("*.json"):
                try:
                    held = json.loads(file.read_text() or "{}")
                except FileNotFoundError:  # released between the two looks
                    continue
                has = (tmp_path / "runs/work" / file.stem / "checkpoint.safetensors").exists()
                if held.get("label") == f"unhurried notes_two seed {seed}" and has:
                    return held
            return {}

        return until(look)  # type: ignore[no-any-return]

    def task(seed: int) -> str:
        """The number of the job that computes a family."""
        lines = cluster.run("squeue", "-h", "-r", "-o", "%A %K").splitlines()
        return next(line.split()[0] for line in lines if line.split()[1] == str(seed - 1))

    os.kill(training(1)["process"][0], signal.SIGKILL)
    training(2)
    cluster.run("scontrol", "requeue", task(2))
    training(3)
    cluster.run("scancel", "--batch", "--signal=USR2", task(3))
    node = training(4)["node"]
    row = there.states("g.toml")["unhurried notes_two seed 4"]
    while row["state"] == "running" and not row["step"]:  # shown with the next heartbeat
        time.sleep(0.1)
        row = there.states("g.toml")["unhurried notes_two seed 4"]
    assert (row["state"], row["node"], row["stage"], row["steps"]) == ("running", node, "train", 150)
    assert 0 < row["step"] < 150 and row["elapsed"] > 0
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    there("grid", "g.toml", "--runs", "local")  # meanwhile
    until(lambda: (tmp_path / "runs/claims").is_dir() and not cluster.run("squeue", "-h"))
    cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    row = there.states("g.toml")["unhurried notes_two seed 1"]
    assert row["state"] == "missing" and "is gone" in row["reason"]  # SLURM does not start a killed job again
    assert "1 family submitted" in there("grid", "g.toml", "--launcher", "slurm", "--wait", *QUICK).stderr

    found = attempts(tmp_path / "runs")
    for seed in (1, 2, 3, 4):
        first, *_, last = found[seed]
        assert first["from_step"] == 0 and 0 < last["from_step"] < 150, found[seed]
        assert (last["restart"] > first["restart"]) == (seed != 1)
        assert (last["job"] == first["job"]) == (seed != 1)
    assert found[4][-1]["node"] != node  # it moved to the other one
    assert results(tmp_path / "local") == results(tmp_path / "runs") and len(results(tmp_path / "local")) == 16
    assert list((tmp_path / "runs/work").iterdir()) == [] and list((tmp_path / "runs/claims").iterdir()) == []


@pytest.mark.parametrize("cluster", [{"nodes": 1, "slots": 1}], indirect=True)
def test_what_slurm_refuses_is_told_and_what_waits_can_be_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    there = There(tmp_path, cluster)
    endless = LONG.replace("steps = 150", "steps = 1_000_000")  # cancelled before any can end
    (tmp_path / "g.toml").write_text(endless + SLURM)
    said = there("grid", "g.toml", "--launcher", "slurm", "--with", "partition=gpu", check=2).stderr
    assert "sbatch refused" in said and "invalid partition" in said
    there("grid", "g.toml", "--launcher", "slurm", "--max-parallel", "1")
    until(lambda: "JobArrayTaskLimit" in {row["reason"] for row in there.states("g.toml").values()})
    assert {row["state"] for row in there.states("g.toml").values()} <= {"waiting", "running"}
    assert "0 families submitted, 4 already queued" in there("grid", "g.toml", "--launcher", "slurm").stderr
    assert "cancelled 4 SLURM tasks" in there("cancel", "g.toml").stdout
    until(lambda: not cluster.run("squeue", "-h"))
    assert {row["state"] for row in there.states("g.toml").values()} == {"missing"}
