"""The eight rows of Table 1 for one task and seed: one grid against eight separate train-and-evaluate runs.

    python -m tools.time_rows [--steps 1000] [--rounds 1] [--json FILE]

The grid trains three times and starts one process; each separate run trains its own root and is its own process,
as scripts with a method per command are. Seconds of processor, start-up and evaluation included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.timing import Ratio, children_time, report

ROOT = Path(__file__).resolve().parent.parent
BENCH = [sys.executable, "-m", "bench"]
TASK, SEED = "notes_four", 1
ROWS = ("adamw", "mc_dropout", "la_kfac", "la_diag", "swa", "swag", "ivon_mean", "ivon")
ONE, EIGHT = "one grid", "eight separate runs"


def timed(folder: Path, *command: str) -> float:
    """Seconds of processor time of a command, which must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    before = children_time()
    done = subprocess.run([*BENCH, *command], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return children_time() - before


def trainings(*runs: Path) -> int:
    """The number of fits in stores that were trained."""
    return sum(bool(trace.read_text().strip()) for folder in runs for trace in folder.glob("fits/*/trace.jsonl"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = {ONE: [], EIGHT: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        methods = ", ".join(f'"{row}"' for row in options.rows)
        (folder / "g.toml").write_text(
            f'methods = [{methods}]\ntasks = ["{TASK}"]\nseeds = [{SEED}]\n[set]\nsteps = {options.steps}\n'
        )
        for number in range(options.rounds):
            seconds[ONE].append(timed(folder, "grid", "g.toml", "--runs", f"grid{number}", "--workers", "1"))
            total = 0.0
            for row in options.rows:
                given = ("--method", row, "--task", TASK, "--seed", str(SEED), "--set", f"steps={options.steps}")
                total += timed(folder, "run", *given, "--runs", f"{row}{number}")
            seconds[EIGHT].append(total)
        counts = {
            f"trainings, {ONE}": trainings(folder / "grid0"),
            f"trainings, {EIGHT}": trainings(*(folder / f"{row}0" for row in options.rows)),
        }
    settings = {"steps": options.steps, "task": TASK, "seconds": "of processor"}
    ratios = [Ratio(ONE, EIGHT, 0.45)]
    report(options.json, "the eight rows of Table 1, one task and seed", seconds, ratios, settings, counts)


if __name__ == "__main__":
    main()
