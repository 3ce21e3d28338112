"""The command line's frame: help, groups, near misses, version, completion, `~` in paths."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import bench

from bench.cli.app import app
from bench.cli.main import main
from bench.process.stop import Stopped

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]


def test_help_lists_every_command_in_its_group(tmp_path: Path) -> None:
    said = bench("--help", cwd=tmp_path).stdout
    for panel in ("Compute:", "Plan and follow:", "Results:", "Set-up:", "For schedulers:"):
        assert f"\n{panel}\n" in said
    assert set(COMMANDS) <= set(re.findall(r"^  (\w+)  ", said, re.MULTILINE))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_every_option(name: str, tmp_path: Path) -> None:
    said = bench(name, "--help", cwd=tmp_path).stdout
    assert said.isascii() and said.startswith(f"Usage: bench {name} ")
    rows = re.findall(r"^  (--[\w-]+)[^\n]*\n?(?=((?:  [^\n]*\n)?))", said, re.MULTILINE)
    assert rows
    for line in said.splitlines():
        if line.startswith("  --"):
            words = re.split(r"\s{2,}", line.strip())
            following = said.split(line + "\n", 1)[1].split("\n", 1)[0]
            assert len(words) > 1 or following.startswith("      "), line


def test_help_answers_in_less_than_half_a_second_of_processor_time() -> None:
    def seconds() -> float:
        before = os.times()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "bench", "--help"], check=True, capture_output=True, env=environment)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.5


def test_no_command_at_all_shows_the_help(tmp_path: Path) -> None:
    assert bench(cwd=tmp_path, check=2).stdout == bench("--help", cwd=tmp_path).stdout


def test_version(tmp_path: Path) -> None:
    assert re.fullmatch(r"bench \d+\.\d+\.\d+\S*\n", bench("--version", cwd=tmp_path).stdout)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("grdi g.toml", "There is no command 'grdi'. Did you mean 'grid'?"),
        ("leaderbord", "There is no command 'leaderbord'. Did you mean 'leaderboard'?"),
        ("grid g.toml --wrokers 2", "`bench grid` has no option --wrokers. Did you mean '--workers'"),
        ("report --base adamw", "`bench report` has no option --base. Did you mean '--baseline'?"),
        ("--versoin", "`bench` has no option --versoin. Did you mean '--version'?"),
        ("grid g.toml --debug", "--debug goes before the command: `bench --debug grid ...`."),
        ("grid", "`bench grid` needs GRID: see `bench grid --help`."),
        ("run --method adamw", "`bench run` needs --task: see `bench run --help`."),
        ("run --method adamw --task arc_e --seed one", "--seed 'one' is not a whole number."),
        ("grid g.toml --workers 1.5", "--workers '1.5' is not a whole number."),
        ("grid g.toml --claim-seconds soon", "--claim-seconds 'soon' is not a number."),
        ("list taks", "'taks' is unknown. Did you mean 'tasks'?"),
        ("compare publishd", "'publishd' is unknown. Did you mean 'published'?"),
        ("show 1234 5678", "unexpected extra argument"),
        ("run --method", "'--method' requires an argument"),
        ("grid --dry-run=yes g.toml", "'--dry-run' does not take a value"),
    ],
)
def test_what_cannot_be_understood_is_answered_in_a_sentence(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.out == ""
    assert re.fullmatch(r"bench: [^\n]+[.?`]\n", said.err)


@pytest.mark.parametrize("command", ["status", "cancel"])
@pytest.mark.parametrize(
    "option", ["--device", "--threads", "--claim-seconds", "--checkpoint-seconds", "--graphs", "--workers", "--wait"]
)
def test_commands_that_compute_nothing_take_no_option_for_computing(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "g.toml", option]) == 2
    assert f"`bench {command}` has no option {option}." in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "~/g.toml"],
        ["grid", "~/g.toml", "--dry-run"],
        ["show", "abcd", "--runs", "~/there"],
        ["merge", "~/there"],
        ["leaderboard", "--add", "~/there"],
        ["family", "~/families.jsonl", "--item", "0"],
        ["logs", "abcd", "--runs", "~/there"],
    ],
)
def test_a_tilde_is_the_home_folder_in_every_path(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(tmp_path / "home") in bench(*arguments, cwd=tmp_path, check=2).stderr


def test_a_home_folder_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "~no_such_user_here/g.toml"]) == 2
    assert "~no_such_user_here/g.toml: there is no user of that name" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shell_completes_commands_options_methods_and_keys(tmp_path: Path) -> None:
    (tmp_path / "runs/evals/0123456789abcdef").mkdir(parents=True)

    def completed(words: str) -> set[str]:
        asked = {"_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **asked}
        done = subprocess.run(
            [sys.executable, "-c", "from bench.cli.main import main; main()"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return set(done.stdout.split())

    assert {"grid", "report", "leaderboard"} <= completed("bench ")
    assert completed("bench gri") == {"grid"}
    assert completed("bench grid --wor") == {"--workers"}
    assert completed("bench run --method ivon_") == {"ivon_mean"}
    assert completed("bench show 01") == {"0123456789abcdef"}


def test_debug_shows_where_an_error_comes_from() -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file no\.toml"):
        main(["--debug", "status", "no.toml"])


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "bench: stopped. The same command continues from here.\n"),
        (Stopped("SIGTERM"), 75, "bench: SIGTERM. The same command continues from here.\n"),
        (BrokenPipeError(), 141, ""),
        (OSError(28, "No space left on device"), 2, "bench: [Errno 28] No space left on device\n"),
    ],
)
def test_every_way_to_end_has_its_status(
    error: BaseException,
    status: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(*arguments: object) -> str:
        raise error

    monkeypatch.setattr("bench.launch.logs.logs", end)
    monkeypatch.setattr("bench.cli.main.discard", lambda stream: None)
    assert main(["logs", "abcd"]) == status
    assert capsys.readouterr().err == sentence
