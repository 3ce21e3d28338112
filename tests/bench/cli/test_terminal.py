"""What reaches the terminal: any encoding, no escape sequences, pipes that close."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import terminal
from bench.cli.main import main
from bench.cli.terminal import any_encoding

ROOT = Path(__file__).resolve().parents[3]


def bench(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=cwd, env=environment, capture_output=True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_stream_of_any_encoding_takes_any_text(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    any_encoding(stream)
    print("a → b, λ 中 🙂", file=stream, flush=True)
    assert raw.getvalue().decode(encoding) in ("a → b, λ 中 🙂\n", r"a \u2192 b, \u03bb \u4e2d \U0001f642" + "\n")


def test_a_terminal_that_knows_ascii_only_is_served(tmp_path: Path) -> None:
    (tmp_path / "λ→.toml").write_text("=")
    done = bench("status", "λ→.toml", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert done.returncode == 2 and rb"\u03bb\u2192.toml cannot be read as TOML" in done.stderr
    done = bench("list", "tasks", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and b"arc_e" in done.stdout


def test_text_of_others_reaches_the_terminal_without_escape_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "evals" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text('{"method": "\\u001b[2J\\u202e"}')
    (folder / "facts.json").write_text('{"host": "\\u009b31m", "files": {}}\n')
    (tmp_path / "runs" / "failures").mkdir()
    failure = '{"trace": "Traceback\\n\\u001b]52;c;aGk=\\u0007", "attempt": {"node": "\\u001b[8m"}}'
    (tmp_path / "runs" / "failures" / "0123456789abcdef-1.json").write_text(failure)
    assert main(["show", "0123"]) == 0
    assert main(["logs", "0123"]) == 0
    assert main(["show", "\x1b[31m"]) == 2
    assert main(["status", "\x1b[31m\u202e.toml"]) == 2
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert r"\x1b" in text and not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "Traceback\n" in said.out


@pytest.mark.parametrize("arguments", [("list", "methods"), ("list", "tasks", "--json"), ("--help",)])
def test_a_reader_that_goes_away_ends_the_command_silently(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "bench", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_said_in_one_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "list", "tasks"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1 and b"No space left" in done.stderr


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_streams_that_are_closed_from_the_start_are_no_fault(tmp_path: Path, closed: str) -> None:
    for arguments, status in (("list tasks", 0), ("logs abcd", 2)):
        command = f"{sys.executable} -m bench {arguments} {closed}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == status and b"Traceback" not in done.stderr


def test_log_records_reach_standard_error_as_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("bench.somewhere")
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])  # as libraries leave behind

    def speak(*arguments: object) -> str:
        logger.debug("not shown")
        logger.info("step %d", 3)
        logger.warning("odd \x1b[31m")
        return "said"

    monkeypatch.setattr("bench.launch.logs.logs", speak)
    assert main(["logs", "abcd"]) == 0
    logger.info("outside")
    said = capsys.readouterr()
    assert (
        said.err.splitlines()[:2] == ["step 3", r"warning: odd \x1b[31m"]
        and len(said.err.splitlines()) <= 3
        and said.out == "said\n"
    )
    assert not logging.getLogger("bench").handlers


def test_a_closed_standard_error_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    terminal.complain("nobody reads this")
