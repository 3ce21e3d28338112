"""The part of tools/gpu.py with several processes: training steps per second of workers that share a GPU."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.train.graphs import CudaRecorder, GraphedLoss
from tools.gpu_common import Bench, fit_job


def workers(b: Bench) -> dict[str, Any]:
    """Training steps per second of 1, 4 and 8 processes that share the card, eager and with graphs."""
    counts = (1, 2) if b.tiny else (1, 4, 8)
    found = {"plain": _team(b, counts)}
    if b.mps:
        with _mps(b.folder / "mps") as started:
            found["mps"] = _team(b, counts) if started else {"error": "the MPS control program is not there"}
    return found


@contextlib.contextmanager
def _mps(folder: Path) -> Iterator[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    names = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    os.environ.update(names)
    try:
        try:
            subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            yield False
            return
        try:
            yield True
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, timeout=20, check=False)
    finally:
        for name in names:
            del os.environ[name]


def _team(b: Bench, counts: tuple[int, ...]) -> dict[str, Any]:
    """Start the largest team once; in each phase its first n members take steps, all for the same seconds."""
    folder = Path(tempfile.mkdtemp(dir=b.folder))
    ways = ("eager", "graphs") if b.device.type == "cuda" else ("eager",)
    phases = [(way, n) for way in ways for n in counts]
    command = [
        sys.executable,
        str(Path(__file__).with_name("gpu.py")),
        "--worker",
        str(folder),
        "--device",
        b.device.type,
        *["--tiny"] * b.tiny,
    ]
    team = [subprocess.Popen([*command, "--number", str(i)], stdout=subprocess.DEVNULL) for i in range(max(counts))]
    found: dict[str, Any] = {}
    try:
        for way, n in phases:
            _wait(lambda: len(list(folder.glob("ready-*"))) == len(team), team, 120)
            for file in folder.glob("ready-*"):
                file.unlink()
            seconds = 0.5 if b.tiny else 3.0
            (folder / "phase.new").write_text(json.dumps({"way": way, "n": n, "seconds": seconds}))
            (folder / "phase.new").rename(folder / "phase")
            _wait(lambda: len(list(folder.glob("steps-*"))) == len(team), team, 60)  # all have read it
            (folder / "phase").unlink()
            steps = [json.loads(file.read_text()) for file in folder.glob("steps-*")]
            for file in folder.glob("steps-*"):
                file.unlink()
            found[f"{way}, {n}"] = {"steps_per_s": sum(s["steps"] / s["seconds"] for s in steps if s["steps"])}
    finally:
        for process in team:
            process.kill()
        for process in team:
            process.wait()
    return found


def _wait(done: Callable[[], bool], team: list[subprocess.Popen[bytes]], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not done():
        if time.monotonic() > ends or any(process.poll() is not None for process in team):
            raise TimeoutError(f"workers: {[process.poll() for process in team]} after {seconds} s")
        time.sleep(0.02)


def worker(b: Bench, folder: Path, number: int) -> None:
    """A member of a team: waits for a phase, takes AdamW steps for its seconds, writes how many."""
    torch.set_num_threads(1)
    model = b.model("qwen_05b")
    data = b.data(model, 64)
    parameters = list(model.params.values())
    adamw = torch.optim.AdamW(parameters, lr=1e-5, foreach=True)
    job = fit_job(b, model, data)
    replay = GraphedLoss(job.loss, parameters, CudaRecorder()) if b.device.type == "cuda" else None
    batches = list(range(0, 64, 4))

    def step(at: int, graphed: bool) -> None:
        start = batches[at % len(batches)]
        batch = data.batch(range(start, start + 4))
        adamw.zero_grad()
        if graphed and replay is not None:
            replay(batch)
        else:
            job.loss(batch).backward()
        adamw.step()

    with model.dropout():
        for at in batches:
            step(at // 4, False)
            step(at // 4, True)
        b.synchronize()
        while True:
            (folder / f"ready-{number}").touch()
            while not (folder / "phase").exists():
                time.sleep(0.01)
            phase = json.loads((folder / "phase").read_text())
            steps, began = 0, time.perf_counter()
            while number < phase["n"] and time.perf_counter() - began < phase["seconds"]:
                step(steps, phase["way"] == "graphs")
                steps += 1
            b.synchronize()
            new = folder / f"new-{number}"
            new.write_text(json.dumps({"steps": steps, "seconds": time.perf_counter() - began}))
            new.rename(folder / f"steps-{number}")
            while (folder / "phase").exists():
                time.sleep(0.01)
