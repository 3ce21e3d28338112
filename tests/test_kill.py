"""A grid killed with SIGKILL, again and again, ends with the bytes of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import bench

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
GRID = """
methods = ["adamw", "ivon_mean", "ivon"]
tasks = ["notes_bool"]
seeds = [1]
[set]
steps = 120
"""
COMMAND = ("grid", "g.toml", "--workers", "2", "--checkpoint-seconds", "0")
RESULTS = ("posterior.safetensors", "predictions.safetensors", "spec.json")


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *COMMAND],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def results(folder: Path) -> dict[str, bytes]:
    files = [file for file in (folder / "runs").rglob("*") if file.name in RESULTS and file.parts[-3] != "work"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def attempts(folder: Path) -> set[Path]:
    return set(folder.glob("runs/work/*/attempt-*.json"))


def test_kills_at_random_moments_change_no_byte(tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for folder in (alone, killed):
        folder.mkdir()
        (folder / "g.toml").write_text(GRID)
    bench("grid", "g.toml", cwd=alone)
    moments = random.Random(7)
    for _ in range(3):
        before = attempts(killed)
        process = start(killed)
        while process.poll() is None and not attempts(killed) - before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.5))  # of work, not of imports
        os.kill(process.pid, signal.SIGKILL)  # the parent only: its workers must follow by themselves
        process.wait()
    bench(*COMMAND, cwd=killed)
    assert results(killed) == results(alone) and len(results(alone)) == 10
    facts = [json.loads(file.read_text()) for file in killed.glob("runs/fits/*/facts.json")]
    assert max(len(fit["attempts"]) for fit in facts) > 1  # a training was hit
    leftovers = list((killed / "runs").rglob(".*")) + list((killed / "runs/work").glob("*"))
    assert leftovers == []
