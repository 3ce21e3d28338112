"""Time `bench leaderboard` and `bench report` on a large synthetic store, and their memory.

    python -m tools.time_report [--methods 20] [--variants 5] [--tasks 6] [--seeds 5] [--examples 500] [--json FILE]

With --keep FOLDER the store is kept there, and read again if it is there.

The store has methods x variants x tasks x seeds results (3000 by default), half of them with ten draws. Memory is that
of the command and its workers together, sampled while it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench.metrics import score
from bench.specs import DataSpec, FitSpec, ModelSpec, RunSpec, TrainSpec, canonical, key, to_json
from tools.timing import children_time, report

ROOT = Path(__file__).resolve().parent.parent
DRAWS = 10
PROVENANCE = {
    "commit": "c" * 40,
    "dirty": False,
    "device": "Abacus",
    "device_type": "cpu",
    "threads": 1,
    "time": "2026-01-01T00:00:00+00:00",
    "versions": {"bayes-lora-bench": "0.1.0"},
}


def publish(folder: Path, spec: FitSpec | RunSpec, facts: dict[str, Any]) -> None:
    """Write spec and facts next to the files in a folder."""
    (folder / "spec.json").write_text(json.dumps(to_json(spec)))
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
    (folder / "facts.json").write_text(json.dumps({**facts, "provenance": PROVENANCE, "files": files}) + "\n")


def add(runs: Path, run: RunSpec, size: int, sharpness: float, draws: int) -> None:
    """One evaluation of random predictions, and its fit."""
    generator = np.random.default_rng(int(key(run), 16))
    answers = 4
    labels = np.random.default_rng(len(run.data.task)).integers(answers, size=size)
    logits = generator.normal(size=(draws, size, answers)) + sharpness * np.eye(answers)[labels]
    log_probs = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)
    cost = {
        "status": "done",
        "steps": 100,
        "seconds": {"train": 10.0 + generator.random(), "posterior": 0.0},
        "peak_memory_mib": {"host": 400.0, "device": None},
        "forward_passes": 400,
        "examples": {"kept": 256, "partial": False, "fingerprint": "0" * 16},
        "warnings": [],
    }
    fit = runs / "fits" / key(run.fit)
    fit.mkdir(parents=True)
    steps = [{"step": s, "seconds": s / 10, "accuracy": s / 100, "nll": 1 - s / 200} for s in (0, 50, 100)]
    (fit / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    publish(fit, run.fit, cost)
    folder = runs / "evals" / key(run)
    folder.mkdir(parents=True)
    ids = canonical([f"test/{n}" for n in range(size)])
    save_file({"log_probs": log_probs, "labels": labels}, folder / "predictions.safetensors", {"ids": ids})
    facts = {
        "status": "done",
        "metrics": score(log_probs, labels),
        "draws": draws,
        "examples": {"scored": size, "truncated": 0, "fingerprint": "1" * 16},
        "seconds": {"predict": 1.5},
        "peak_memory_mib": {"host": 500.0, "device": None},
        "forward_passes": draws * size,
        "fit": {"key": key(run.fit), **cost},
        "partial_data": False,
    }
    publish(folder, run, facts)


def fill(runs: Path, options: argparse.Namespace) -> int:
    """The whole store; returns its number of evaluations."""
    count = 0
    for number in range(options.methods):
        method = "adamw" if number == 0 else f"method_{number:02}"
        for variant in range(options.variants):
            for task in range(options.tasks):
                for seed in range(options.seeds):
                    data = DataSpec(task=f"task_{task}", version=1, revision="r")
                    fit = FitSpec(
                        method=method, version=1, options={"lr": 10.0**-variant}, data=data, holdout=0.0,
                        model=ModelSpec(), train=TrainSpec(steps=100), seed=seed,
                    )  # fmt: skip
                    run = RunSpec(
                        fit=fit, method=method, version=1, options={}, data=data, split="test", protocol="clean",
                        variant=f"v{variant}",
                    )  # fmt: skip
                    add(runs, run, options.examples, 0.1 * number, DRAWS if number % 2 else 1)
                    count += 1
    return count


def resident(pid: int) -> int:
    """KiB of a process and of all that it started; what they share counts once."""
    total = 0
    with contextlib.suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += resident(int(child))
    return total


def measure(*arguments: str) -> tuple[float, float, float]:
    """(seconds, seconds of processor time, peak MiB) of a command of the suite, which must succeed."""
    began, before, peak = time.monotonic(), children_time(), 0
    process = subprocess.Popen([sys.executable, "-m", "bench", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"bench {' '.join(arguments)} exited with {process.returncode}")
    return time.monotonic() - began, children_time() - before, peak / 1024


def main() -> None:
    """Fill a store and time the commands that read it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("methods", 20), ("variants", 5), ("tasks", 6), ("seeds", 5), ("examples", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--keep", type=Path, help="fill this folder, or read it if it is there, and keep it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.keep or Path(scratch) / "runs"
        if not (runs / "evals").is_dir():
            began = time.monotonic()
            print(f"{fill(runs, options)} evaluations made in {time.monotonic() - began:.0f} s", flush=True)
        for command in (
            ("leaderboard", "--runs", str(runs), "--out", f"{scratch}/leaderboard.csv"),
            ("report", "--runs", str(runs), "--out", f"{scratch}/report"),
        ):
            name = f"bench {command[0]}"
            elapsed, processor, memory[f"{name}, peak MiB"] = measure(*command)
            seconds[name], seconds[f"{name}, processor"] = [elapsed], [processor]
        count = sum(1 for _ in (runs / "evals").iterdir())
    report(options.json, f"leaderboard and report of a store of {count} evaluations", seconds, further=memory)


if __name__ == "__main__":
    main()
