"""Workers: whatever ends their parent or its display, the work leaves a checkpoint, no failure and no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
GRID = 'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [{seeds}]\n[set]\nsteps = {steps}\n'
LONG = ("--checkpoint-seconds", "1000")  # so that only a request to stop writes a checkpoint


def start(folder: Path, *arguments: str, seeds: str = "1, 2", steps: int = 100_000, **options: Any) -> Any:
    """A grid in a session of its own."""
    (folder / "g.toml").write_text(GRID.format(seeds=seeds, steps=steps))
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "grid", "g.toml", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options},
    )


def working(folder: Path, count: int) -> bool:
    """Whether that many fits have begun their steps."""
    return len(list(folder.glob("runs/work/*/attempt-*.json"))) >= count


def session(process: Any) -> list[int]:
    """The living processes of a process's session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(process.pid) and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def nothing_lost(folder: Path, checkpoints: int) -> None:
    """Every fit left a checkpoint; no failure is recorded and nothing is claimed."""
    assert len(list(folder.glob("runs/work/*/checkpoint.safetensors"))) == checkpoints
    assert list(folder.glob("runs/failures/*")) == [] and list(folder.glob("runs/claims/*")) == []


def test_ctrl_c_leaves_checkpoints_and_no_failure(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers", "2", *LONG)
    until(lambda: working(tmp_path, 2))
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the parent and its workers
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 130 and "The same command continues from here" in said, said
    nothing_lost(tmp_path, 2)
    until(lambda: session(process) == [])


def deaf(pid: int) -> bool:
    """Whether a process blocks or ignores SIGINT."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk", "SigIgn"))]
    return any(mask >> (signal.SIGINT - 1) & 1 for mask in masks)


def test_ctrl_c_while_the_workers_start_is_heard_by_their_parent_only(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers", "2", *LONG)
    until(lambda: len(session(process)) >= 3)  # the resource tracker, and the server that workers are forked from
    until(lambda: all(deaf(pid) for pid in session(process) if pid != process.pid))
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 130 and "The same command continues from here" in said, said
    assert "Traceback" not in said and list(tmp_path.glob("runs/failures/*")) == []
    until(lambda: session(process) == [])


def test_a_terminal_that_is_closed_is_a_request_to_stop(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = start(tmp_path, *LONG, seeds="1", stdout=theirs, stderr=theirs)
    os.close(theirs)
    until(lambda: working(tmp_path, 1))
    time.sleep(0.5)
    os.close(ours)  # writing to it is an error (EIO) from now on
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(timeout=PATIENCE) == 75
    nothing_lost(tmp_path, 1)
    until(lambda: session(process) == [])


def test_a_reader_that_has_gone_away_stops_no_work(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers", "2", steps=5)
    process.stdout.close()  # as after `2>&1 | head`
    assert process.wait(timeout=PATIENCE) in (0, 141)
    assert len(list(tmp_path.glob("runs/evals/*/facts.json"))) == 2 and list(tmp_path.glob("runs/failures/*")) == []


def test_an_idle_worker_ends_when_its_parent_fails(tmp_path: Path) -> None:
    """Three families for two workers, and an error of the parent as soon as the first is done."""
    (tmp_path / "broken.py").write_text(
        "import sys\n"
        "from bench.cli.main import main\n"
        "from bench.process.progress import Bar\n"
        "def fail(*_): raise RuntimeError('a fault of the parent')\n"
        "Bar.done = fail\n"
        "if __name__ == '__main__': main(sys.argv[1:])\n"
    )
    (tmp_path / "g.toml").write_text(GRID.format(seeds="1, 2, 3", steps=5))
    process = subprocess.Popen(
        [sys.executable, "broken.py", "grid", "g.toml", "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1 and "a fault of the parent" in said
    until(lambda: session(process) == [])
    assert list(tmp_path.glob("runs/failures/*")) == []
