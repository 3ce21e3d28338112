"""The drills that take minutes, on a real SLURM on this machine: a real time limit, a dying node, a dying controller.

    python tools/drill_slurm.py [time-limit] [node] [controller]

Needs Debian's slurmctld, slurmd, slurm-client and munge. Each drill prints what became of each family and compares
every posterior, prediction and spec with those of the local launcher, undisturbed. Exits with 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from slurm_cluster import Cluster  # noqa: E402

RESULTS = ("posterior.safetensors", "predictions.safetensors", "spec.json")
GRID = """
methods = ["adamw"]
tasks = ["notes_two"]
seeds = {seeds}
[set]
steps = {steps}
[slurm]
gres = "gpu:1"
time = "{time}"
warn_seconds = 15
"""


def bench(folder: Path, cluster: Cluster | None, *arguments: str) -> str:
    """The output of a command of the suite, which must succeed."""
    environment = {**(cluster.environment if cluster else os.environ), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def submit(folder: Path, cluster: Cluster, *arguments: str) -> None:
    """Submit what is missing of the grid."""
    quick = ("--checkpoint-seconds", "1", "--claim-seconds", "8")
    said = bench(folder, cluster, "grid", "g.toml", "--launcher", "slurm", *quick, *arguments)
    print("   ", next(line for line in said.splitlines() if "submitted," in line), flush=True)


def results(runs: Path) -> dict[str, bytes]:
    """The files that must not depend on when, where or in how many attempts they were computed."""
    files = [file for kind in ("fits", "evals") for file in (runs / kind).rglob("*") if file.name in RESULTS]
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("waited in vain")
        time.sleep(0.2)


def report(folder: Path) -> bool:
    """Print each fit's attempts; whether its bytes are those of the local launcher."""
    for file in sorted((folder / "runs/fits").glob("*/facts.json")):
        tries = json.loads(file.read_text())["attempts"]
        steps = ", ".join(f"{a['node']} from step {a['from_step']} (restart {a['restart']})" for a in tries)
        print(f"    {file.parent.name}: {steps}")
    bench(folder, None, "grid", "g.toml", "--workers", "2", "--runs", "local")
    same = results(folder / "runs") == results(folder / "local")
    print(f"    {len(results(folder / 'local'))} files identical to the local launcher's: {same}", flush=True)
    return same


def checkpoints(folder: Path) -> int:
    """The number of families that have begun to train."""
    return len(list((folder / "runs/work").glob("*/checkpoint.safetensors")))


def time_limit(folder: Path) -> bool:
    """A limit of one minute, for about two minutes of work."""
    cluster = Cluster(nodes=1, slots=2)
    try:
        (folder / "g.toml").write_text(GRID.format(seeds=[1], steps=12_000, time="1"))
        submit(folder, cluster, "--wait")
    finally:
        cluster.stop()
    return report(folder)


def node(folder: Path) -> bool:
    """One of two nodes dies as in a power cut, with its job and daemon; SLURM moves the family to the other."""
    cluster = Cluster(nodes=2, slots=2)
    try:
        (folder / "g.toml").write_text(GRID.format(seeds=[1, 2], steps=3000, time="10"))
        submit(folder, cluster)
        until(lambda: checkpoints(folder) == 2, 60)
        cluster.kill_node("n2")
        killed = time.monotonic()
        submit(folder, cluster, "--wait")
        print(f"    everything done {time.monotonic() - killed:.0f} s after the kill")
    finally:
        cluster.stop()
    return report(folder)


def controller(folder: Path) -> bool:
    """The controller is killed and comes back without its memory of the jobs; the grid is submitted again."""
    cluster = Cluster(nodes=1, slots=2)
    try:
        (folder / "g.toml").write_text(GRID.format(seeds=[1, 2, 3, 4], steps=1500, time="10"))
        submit(folder, cluster)
        until(lambda: checkpoints(folder) == 2, 60)
        os.kill(int((cluster.root / "slurmctld.pid").read_text()), signal.SIGKILL)
        time.sleep(1)
        subprocess.run(
            ["slurmctld", "-f", cluster.root / "slurm.conf", "-c"], env=cluster.environment, check=True
        )  # -c: it forgets
        time.sleep(3)
        submit(folder, cluster, "--wait")
    finally:
        cluster.stop()
    return report(folder)


DRILLS = {"time-limit": time_limit, "node": node, "controller": controller}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=", ".join(DRILLS))
    chosen = parser.parse_args().drills or list(DRILLS)
    if unknown := set(chosen) - set(DRILLS):
        parser.error(f"no drill {', '.join(sorted(unknown))}: choose from {', '.join(DRILLS)}")
    good = True
    for name in chosen:
        print(f"{name}: {DRILLS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            good &= DRILLS[name](Path(folder))
            print(f"    {time.monotonic() - began:.0f} s", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
