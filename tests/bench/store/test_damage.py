"""What is damaged, odd or in the way: one sentence instead of a trace, and nothing else is hidden by it."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import bench, plan

from bench.process import claim as claim_module
from bench.process import stop
from bench.process.claim import claim
from bench.process.console import shown
from bench.process.holder import Worker, read_claims
from bench.specs import key
from bench.store.store import Store

GRID = 'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1]\n[set]\nsteps = 2\n'
RUN = plan("adamw")


@pytest.fixture
def handlers() -> Iterator[None]:
    """SIGTERM as it was before."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def failure(tmp_path: Path) -> Path:
    """A recorded failure of RUN in a store."""
    return Store(tmp_path / "runs").fail(RUN, RuntimeError("no luck"), Worker(node="n1").describe())


# --- starting again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("nosuchcmd x", "No such file or directory"),
        ("sleep 60", "timed out after 0.2 seconds"),
        ("echo 'x", "No closing quotation"),
        (" ", "No such file or directory"),
        ("sh -c 'echo sorry >&2; exit 3'", "sorry"),
    ],
)
def test_a_command_that_cannot_start_the_job_again_is_told(
    command: str, reason: str, handlers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stop, "AGAIN_SECONDS", 0.2 if "sleep" in command else 60)
    with shown(lambda text: print(text, file=sys.stderr)):
        stop.start_again(command)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: `{command}` failed (") and reason in said
    assert said.endswith("): submit the grid again to continue.\n") and said.count("\n") == 1


def test_a_job_that_was_warned_ends_with_75_whatever_its_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    bench("grid", "g.toml", "--launcher", "print", cwd=tmp_path)
    (file,) = tmp_path.glob("runs/submissions/*/families.jsonl")

    def warned(*arguments: Any, **options: Any) -> tuple[str, str]:
        signal.raise_signal(signal.SIGUSR2)
        return "stopped", "SIGUSR2: stopped after step 1"

    monkeypatch.setattr("bench.run.worker.work", warned)
    said = bench("family", str(file), "--item", "0", "--on-warning", "nosuchcmd x", cwd=tmp_path, check=75)
    assert "warning: `nosuchcmd x` failed (" in said.stderr


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "g.toml").write_text(GRID)
    for arguments in (("status", "folder"), ("grid", "g.toml", "--launcher", "print", "--runs", "file/runs")):
        said = bench(*arguments, cwd=tmp_path, check=2).stderr
        assert said.startswith("bench: ") and arguments[-1] in said and said.count("\n") == 1


def test_numbers_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(GRID)
    said = bench("grid", "g.toml", "--max-parallel", "-3", "--dry-run", cwd=tmp_path, check=2).stderr
    assert said == "bench: --max-parallel -3: use 0 (no limit) or more.\n"
    for lines in ("0", "-2"):
        said = bench("logs", "abcd", "--lines", lines, cwd=tmp_path, check=2).stderr
        assert said == f"bench: --lines {lines}: use at least 1.\n"


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"", b"null", b'{"trace": 3}', b'{"trace": "x", "attempt": [1]}', b"\xff", None]
)
def test_a_damaged_failure_is_named_and_hides_no_other(tmp_path: Path, failure: Path, content: bytes | None) -> None:
    damaged = failure.with_name(f"{key(RUN)}-1.json")
    if content is None:
        damaged.mkdir()
    else:
        damaged.write_bytes(content)
    said = bench("logs", key(RUN), cwd=tmp_path).stdout
    damaged, failure = damaged.relative_to(tmp_path), failure.relative_to(tmp_path)
    assert said.startswith(f"== {damaged} cannot be read\n\n== {failure} (on n1)\n")
    assert said.endswith("RuntimeError: no luck\n")


def test_a_failure_without_an_attempt_is_shown(tmp_path: Path, failure: Path) -> None:
    failure.write_text(json.dumps({**json.loads(failure.read_text()), "attempt": None}))
    assert bench("logs", key(RUN), cwd=tmp_path).stdout.startswith(f"== {failure.relative_to(tmp_path)}\n")


def test_damaged_submissions_hide_no_log(tmp_path: Path, failure: Path) -> None:
    name, folder = key(RUN), tmp_path / "runs/submissions"
    good = json.dumps({"key": "0123456789abcdef", "keys": [name]})
    lines = ["{}", f'"{name}', f'["{name}"]', f'{{"key": "{name}"}}', f'{{"key": 1, "keys": ["{name}", 2]}}', good]
    for number, text in enumerate(["\n".join(lines), "", good]):
        (folder / f"20260101T00000{number}Z-abcdef/logs").mkdir(parents=True)
        (folder / f"20260101T00000{number}Z-abcdef/families.jsonl").write_text(text)
        (folder / f"20260101T00000{number}Z-abcdef/submission.json").write_text("[]")
    (folder / "20260101T000009Z-abcdef/families.jsonl").mkdir(parents=True)
    logs = folder / "20260101T000000Z-abcdef/logs"
    (logs / "0-4.log").write_text("first\nsecond\n")
    (logs / "4-0.log").mkdir()
    said = bench("logs", name, "--lines", "1", cwd=tmp_path).stdout
    assert said.startswith(f"== {logs}/0-4.log\nsecond\n\n== {logs}/4-0.log cannot be read\n\n== runs/failures/")
    assert "no luck" in said


# --- show and cancel --------------------------------------------------------------------------------------------------


def test_a_copy_beside_a_result_is_not_taken_for_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in (key(RUN), f"{key(RUN)}.bak", f"{key(RUN)}0"):
        (tmp_path / "evals" / name).mkdir(parents=True)
    assert store.find(key(RUN)) == store.find(key(RUN)[:6]) == store.folder(RUN)
    with pytest.raises(LookupError, match="No result starts with"):
        store.find(f"{key(RUN)}0")


def test_cancel_asks_the_jobs_of_other_schedulers_and_leaves_slurms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda process, number: asked.append(number))
    (tmp_path / "g.toml").write_text(GRID)
    bench("grid", "g.toml", "--launcher", "print", cwd=tmp_path)
    (about,) = tmp_path.glob("runs/submissions/*/submission.json")
    (family,) = json.loads(about.read_text())["keys"]
    file = Store(tmp_path / "runs").claim_file(family)

    def cancelled(job: str) -> str:
        with claim(file, Worker(job=job), about={"label": "adamw"}):
            return bench("cancel", "g.toml", cwd=tmp_path).stdout

    for job in ("pbs.1", f"{about.parent.name}/7/0"):  # the second is of a submission, but not SLURM's
        assert cancelled(job) == f"adamw: asked process {os.getpid()} to stop\n"
    assert asked == [signal.SIGTERM] * 2
    monkeypatch.setattr(claim_module, "machine", lambda: "another")
    with claim(file, Worker(job="pbs.1"), about={"label": "adamw"}):
        host = read_claims(file.parent)[family]["host"]
    assert cancelled("pbs.1") == f"adamw: runs as job pbs.1 on {host}; stop it there\n"
    assert cancelled("") == f"adamw: runs on {host}; stop it there\n"
    about.write_text(json.dumps({**json.loads(about.read_text()), "launcher": "slurm"}))
    assert "No family of g is queued or running" in cancelled(f"{about.parent.name}/7/0")
    assert len(asked) == 2


@pytest.mark.parametrize(("number", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "it is read-only")])
def test_a_store_that_takes_nothing_more_stops_the_grid_and_counts_as_no_failure(
    number: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g.toml").write_text('methods = ["zero_shot"]\ntasks = ["notes_two"]\nseeds = [1, 2, 3]\n')

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("bench.store.files.settle", refuse)
        said = bench("grid", "g.toml", "--runs", "runs", cwd=tmp_path, check=1).stderr
    assert f"bench: zero_shot notes_two seed 1: nothing can be written: {why}\n" in said
    assert "bench: 2 families were not started, because nothing more can be written.\n" in said
    assert said.count("FAILED") == 1 and "seed 2" not in said
    store = Store(tmp_path / "runs")
    assert not store.failure_files() and not store.evaluations()
    assert bench("grid", "g.toml", "--runs", "runs", cwd=tmp_path).stdout == ""  # made room, nothing to retry by hand
    assert len(store.evaluations()) == 3


def test_a_store_that_cannot_be_written_is_refused_before_any_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g.toml").write_text('methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1, 2]\n')
    (tmp_path / "runs").mkdir()

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    for command in (("grid", "g.toml"), ("run", "--method", "adamw", "--task", "notes_two", "--seed", "1")):
        said = bench(*command, "--runs", "runs", cwd=tmp_path, check=2).stderr
        assert said == (
            "bench: --runs runs: nothing can be written to runs (Read-only file system). Make room, or choose another "
            "place.\n"
        )
    assert list((tmp_path / "runs").iterdir()) == []
