"""Holders: a claim that anybody could have written is believed as far as the kernel confirms it, and no further."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.process.claim import Held, claim, sweep_claims
from bench.process.holder import Worker, ask_to_stop, machine, read_claims, started

linux = pytest.mark.skipif(not machine(), reason="this system does not tell processes of one machine apart (not Linux)")


def write(file: Path, **content: Any) -> Path:
    """A claim of this machine that no process holds."""
    whole = {"token": "t", "seconds": 3600, "machine": machine(), "process": [os.getpid(), started(os.getpid())]}
    file.write_text(json.dumps({**whole, **content}))
    return file


@linux
@pytest.mark.parametrize(
    "process", [[-1, ""], [0, ""], [1, ""], [1, started(1)], [-1, "5"], [os.getpid(), ""], [os.getppid(), "1"], None,
                [], [True, "1"], ["1", "1"], [2**70, "1"], {}]
)  # fmt: skip
def test_a_hostile_claim_makes_nobody_signal(process: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal"))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: pytest.fail("a signal"))
    assert ask_to_stop(write(tmp_path / "a.json", process=process)) is None
    content = json.loads((tmp_path / "a.json").read_text())
    del content["process"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert ask_to_stop(tmp_path / "a.json") is None


@linux
def test_a_process_that_does_not_hold_the_claim_is_not_signalled(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        file = write(tmp_path / "a.json", process=[bystander.pid, started(bystander.pid)])
        assert ask_to_stop(file) is None and bystander.poll() is None
        assert ask_to_stop(tmp_path / "missing.json") is None
    finally:
        bystander.kill()
        bystander.wait()


@linux
def test_the_holder_is_asked(tmp_path: Path, repository: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from bench.process.claim import claim; from bench.process.holder import Worker\n"
        "with claim(Path(sys.argv[1]), Worker()): print('held', flush=True); time.sleep(60)\n"
    )
    file = tmp_path / "a.json"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(file)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert ask_to_stop(file) == holder.pid
    assert holder.wait(timeout=10) == -signal.SIGTERM


@pytest.mark.parametrize(
    "content",
    [
        {"seconds": 1e300}, {"seconds": -1}, {"seconds": "x"}, {"seconds": float("nan")}, {"since": -5}, {"step": -1},
        {"left": "x"}, {"fraction": float("inf")}, {"runs": [[]]}, {"runs": [1]}, {"label": "\x1b[31m"},
        {"node": "a\nb"}, {"job": 5}, {"process": [-1, ""]}, {"restart": "x"}, {"stage": "\x07"},
    ],
)  # fmt: skip
def test_whatever_a_claim_says_it_is_shown_and_waited_for_no_longer_than_the_readers_limit(
    content: dict[str, Any], tmp_path: Path, pauses: list[float]
) -> None:
    file = write(tmp_path / "a.json", machine="far", **content)
    (shown,) = read_claims(tmp_path).values()
    assert all(str(value).isprintable() for value in shown.values()) and shown["seconds"] > 0
    with claim(file, Worker(), seconds=0.5, wait=False):
        assert sum(pauses) < 5


@pytest.mark.parametrize("ahead", [3600, 3, -3600])
def test_a_claim_from_the_future_is_old(ahead: float, tmp_path: Path, pauses: list[float]) -> None:
    file = write(tmp_path / "a.json", machine="far", seconds=1e6)
    then = time.time() + ahead
    os.utime(file, (then, then))
    assert read_claims(tmp_path, limit=2)["a"]["alive"] is False
    with claim(file, Worker(), seconds=2):
        assert sum(pauses) < 1


def test_the_wait_ends_though_the_age_never_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    """A file server whose clock stands still, or a claim that is always a little ahead."""
    file = write(tmp_path / "a.json", machine="far")
    monkeypatch.setattr("bench.process.claim.server_time", lambda folder: file.stat().st_mtime)
    began = time.monotonic()
    with claim(file, Worker(), seconds=0.5):
        assert time.monotonic() - began > 0.4 and sum(pauses) < 5


def test_waiting_says_for_whom_and_until_when(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write(tmp_path / "a.json", machine="far", node="n7", job="s/1", label="adamw notes seed 1")
    with claim(tmp_path / "a.json", Worker(), seconds=0.5):
        pass
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "waiting for job s/1 on n7, which claims adamw notes seed 1 (a): until it is done, or until "
    )


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_life_that_is_no_number_of_seconds_is_refused(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="A claim cannot live"), claim(tmp_path / "a.json", Worker(), seconds=seconds):
        pass
    assert list(tmp_path.iterdir()) == []


def test_dead_claims_and_drafts_are_swept_and_living_ones_stay(tmp_path: Path) -> None:
    write(tmp_path / "dead.json", machine="far")
    os.utime(tmp_path / "dead.json", (0, 0))
    write(tmp_path / "other.json", machine="far")
    with claim(tmp_path / "living.json", Worker()):
        sweep_claims(tmp_path, 240, lambda family: False)
        assert sorted(read_claims(tmp_path)) == ["dead", "living", "other"]  # status says that its process is gone
        sweep_claims(tmp_path, 240, lambda family: True)
        assert sorted(read_claims(tmp_path)) == ["living", "other"]
        with pytest.raises(Held), claim(tmp_path / "living.json", Worker(), wait=False, seconds=1):
            pass
