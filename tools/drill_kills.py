"""Kill a grid at random moments, restart it, and compare its results with those of one undisturbed run.

    python tools/drill_kills.py [--kills 10] [--seed 0] [--reference RUNS] [--grid GRID.toml] [--seconds S]

Each kill is one of: SIGKILL of the parent and its workers, SIGKILL of the parent alone, Ctrl-C (SIGINT to the process
group, as a terminal sends it). Counted are files that differ, false failures (records under failures/, of which the
grid itself causes none), interrupts that did not exit with 130, and processes that stay. Exits with 1 unless all are
0. Of leaderboard.csv the column `date` may differ, the day (UTC) of the newest run; with a --reference that was made
elsewhere, so may the other columns that say where a run was made (commit, device, suite, flags).
"""

from __future__ import annotations

import argparse
import collections
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
WAYS = ("all", "parent", "interrupt")
PATIENCE = 120.0  # seconds for an interrupted grid to end, and for processes to follow their parent


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


def session(leader: int) -> list[int]:
    """The living processes of a session that this drill started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(leader) and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def left(leader: int) -> list[int]:
    """The processes that are still there after a while; they are ended."""
    deadline = time.monotonic() + PATIENCE
    while (staying := session(leader)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in staying:
        os.kill(process, signal.SIGKILL)
    return staying


def end(process: subprocess.Popen[bytes], way: str) -> bool:
    """End a grid in one of the ways; whether it ended as it should."""
    if way == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
        try:
            # 0: it was complete when the signal came; -2: Python had not yet begun
            return process.wait(timeout=PATIENCE) in (130, 0, -signal.SIGINT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
    if way == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()  # its workers must follow by themselves
    process.wait()
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, default=ROOT / "bench/grids/demo.toml")
    parser.add_argument("--reference", type=Path, help="a store in which the grid is complete already")
    parser.add_argument("--seconds", type=float, help="mean time between kills; by default they span the grid")
    options = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a drill in the background would hand on that it is ignored
    moments = random.Random(options.seed)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        command = [*BENCH, "grid", options.grid.resolve(), "--workers", "2", "--checkpoint-seconds", "1"]
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
                counts["processes left"] += len(left(process.pid))
                break
            wait = (options.seconds or 0.9 * whole / options.kills) * moments.uniform(1 / 3, 5 / 3)
            try:
                process.wait(timeout=wait)
                print(f"the grid was complete after {kills} kills: nothing left to kill")
                break
            except subprocess.TimeoutExpired:
                way = moments.choice(WAYS)
                counts["interrupts that did not exit with 130"] += not end(process, way)
                counts["processes left"] += len(left(process.pid))
                kills += 1
                counts[way] += 1
                done = len(list(runs.glob("evals/[0-9a-f]*")))
                print(f"kill {kills} ({way}) after {wait:.1f} s: {done} evaluations done", flush=True)
        print(f"{kills} kills ({', '.join(f'{way} {counts.pop(way, 0)}' for way in WAYS)}), "
              f"{time.monotonic() - began:.0f} s in all")  # fmt: skip
        ours, theirs = results(runs), results(reference)
        counts["files that differ"] = sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())
        counts["false failures"] = len(list(runs.glob("failures/*.json")))
        pairs = zip(leaderboard(runs), leaderboard(reference), strict=True)
        differing = {mine[0] for mine, other in pairs if mine != other}
        counts["leaderboard columns that differ"] = len(differing - set(CLOCK if options.reference is None else ORIGIN))
        print(f"{len(theirs)} posteriors and predictions compared")
        for name, count in counts.items():
            print(f"{name}: {count}")
        return 1 if counts.total() else 0


if __name__ == "__main__":
    sys.exit(main())
