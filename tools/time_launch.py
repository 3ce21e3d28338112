"""Measure the overhead of a launcher and the gain of a second worker: one grid through each launcher, side by side.

    python -m tools.time_launch [--grid GRID.toml] [--rounds 3] [--slurm] [--json FILE]

Without --grid: six families of 300 steps. One worker is the reference; "start-up and scheduling" is the time beyond it,
per family and slot. Run it on a quiet machine. --slurm needs the packages that tests/slurm_cluster.py names.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.timing import Ratio, report

ROOT = Path(__file__).resolve().parent.parent
BENCH = [sys.executable, "-m", "bench"]
GRID = 'methods = ["adamw", "ivon"]\ntasks = ["notes_two"]\nseeds = [1, 2, 3]\n[set]\nsteps = 300\n'


def timed(folder: Path, environment: dict[str, str], *command: str) -> float:
    """Seconds that a command takes; it must succeed."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - began


def one_by_one(folder: Path, environment: dict[str, str], grid: Path, runs: str) -> tuple[float, int]:
    """(seconds for a process per family, one after the other, number of families)."""
    command = [*BENCH, "grid", str(grid), "--runs", runs, "--launcher", "print"]
    lines = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    lines = lines.splitlines()
    return sum(timed(folder, environment, *shlex.split(line.split(" && ")[1])) for line in lines), len(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--grid", type=Path, help="default: six short families")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--slurm", action="store_true", help="also through a SLURM of one and of two slots")
    options = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "g.toml").write_text(GRID)
        grid = options.grid.resolve() if options.grid else folder / "g.toml"
        for number in range(options.rounds):
            for workers in (1, 2):
                command = [*BENCH, "grid", str(grid), "--runs", f"local{workers}-{number}", "--workers", str(workers)]
                times.setdefault(f"local, {workers} worker(s)", []).append(timed(folder, environment, *command))
            if number == 0:  # it is slow, and no other contestant's figure depends on it
                spent, families = one_by_one(folder, environment, grid, f"print-{number}")
                times["print, one by one"] = [spent]
            for slots in (1, 2) if options.slurm else ():
                sys.path.insert(0, str(ROOT / "tests"))
                from slurm_cluster import Cluster

                cluster = Cluster(nodes=1, slots=slots)
                try:
                    command = [*BENCH, "grid", str(grid), "--runs", f"slurm{slots}-{number}", "--launcher", "slurm"]
                    spent = timed(folder, cluster.environment | {"PYTHONPATH": str(ROOT)}, *command, "--wait")
                    times.setdefault(f"slurm, {slots} slot(s)", []).append(spent)
                finally:
                    cluster.stop()
    reference = min(times["local, 1 worker(s)"])
    print(f"{families} families, best of {options.rounds} round(s)")
    print(f"{'launcher':22} {'seconds':>8} {'speed-up':>9} {'start-up and scheduling, s per family':>38}")
    for name, found in times.items():
        slots = 2 if " 2 " in name else 1
        extra = (min(found) * slots - reference) / families
        print(f"{name:22} {min(found):8.1f} {reference / min(found):9.2f} {extra:38.2f}")
    one, two = "local, 1 worker(s)", "local, 2 worker(s)"
    alone = times["print, one by one"][0] / statistics.median(times[one])
    further = {"print, one by one, over local, 1 worker(s), %": 100 * alone}
    report(options.json, f"a grid of {families} families", times, [Ratio(two, one)], further=further)
    return 0


if __name__ == "__main__":
    sys.exit(main())
