"""Kill the demo grid with SIGKILL at random moments, restart it, and compare its leaderboard with that of one run.

    python benchmarks/kill_demo.py [--kills 10] [--seed 0] [--reference RUNS] [--grid GRID.toml]

The waits are random shares of the time the grid takes. Exits with 1 if one byte of a posterior, of a prediction or of
leaderboard.csv differs, the column `date` aside, which is the day (UTC) of the newest run. Beside a --reference that
was made elsewhere, the other columns that say where a run was made (commit, device, suite, flags) may differ too.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis.tables.leaderboard import CLOCK, ORIGIN

ROOT = Path(__file__).resolve().parent.parent
BENCH = [sys.executable, "-m", "bench"]


def leaderboard(runs: Path) -> list[list[str]]:
    """The leaderboard of a store, column by column, each with its name first."""
    out = runs / "leaderboard.csv"
    subprocess.run([*BENCH, "leaderboard", "--runs", runs, "--out", out], cwd=ROOT, check=True)
    with out.open(newline="") as stream:
        return [list(column) for column in zip(*csv.reader(stream), strict=True)]


def results(runs: Path) -> dict[str, bytes]:
    """Every posterior and prediction of a store."""
    files = [*runs.glob("fits/*/posterior.safetensors"), *runs.glob("evals/*/predictions.safetensors")]
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, default=ROOT / "bench/grids/demo.toml")
    parser.add_argument("--reference", type=Path, help="a store in which the grid is complete already")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        command = [*BENCH, "grid", options.grid, "--workers", "2", "--checkpoint-seconds", "1"]
        reference = options.reference or Path(scratch) / "reference"
        began = time.monotonic()
        subprocess.run([*command, "--runs", reference], cwd=ROOT, check=True)
        whole = time.monotonic() - began if options.reference is None else 200.0
        runs = Path(scratch) / "killed"
        kills, began = 0, time.monotonic()
        while True:
            process = subprocess.Popen(
                [*command, "--runs", runs], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
            )
            if kills == options.kills:
                assert process.wait() == 0, "the last run failed"
                break
            wait = whole / options.kills * moments.uniform(0.3, 1.5)
            try:
                process.wait(timeout=wait)
                print(f"the grid was complete after {kills} kills: nothing left to kill")
                break
            except subprocess.TimeoutExpired:
                if moments.random() < 0.5:
                    os.killpg(process.pid, signal.SIGKILL)  # the parent and its workers at once
                else:
                    process.kill()  # the parent alone: its workers must follow by themselves
                process.wait()
                kills += 1
                done = len(list(runs.glob("evals/[0-9a-f]*")))
                print(f"kill {kills} after {wait:.1f} s: {done} evaluations done", flush=True)
        print(f"{kills} kills, {time.monotonic() - began:.0f} s in all")
        pairs = zip(leaderboard(runs), leaderboard(reference), strict=True)
        differing = {ours[0] for ours, theirs in pairs if ours != theirs}
        same_board = differing <= set(CLOCK if options.reference is None else ORIGIN)
        same_files = results(runs) == results(reference)
        print(f"leaderboard.csv identical: {same_board} (columns that differ: {sorted(differing) or 'none'}); "
              f"{len(results(runs))} posteriors and predictions identical: {same_files}")  # fmt: skip
        return 0 if same_board and same_files else 1


if __name__ == "__main__":
    sys.exit(main())
