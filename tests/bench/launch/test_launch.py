"""Launchers without a scheduler: GPUs, signals, stalled processes, the retry limit, commands for other schedulers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from patience import PATIENCE, until
from support import plan
from unhurried import PAUSE

from bench.cli.main import main
from bench.data.splits import DataSource
from bench.launch.backends.slurm import script, settings_of
from bench.launch.launcher import get_launcher, launcher_names
from bench.launch.submission import Submission, new_submission, read_item, read_submissions, write_submission
from bench.method import method_names
from bench.plan.runs import families
from bench.run.execution import Execution
from bench.specs import key
from bench.store.store import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ("posterior.safetensors", "predictions.safetensors", "spec.json")
GRID = """
methods = ["adamw"]
tasks = ["notes_two"]
seeds = [1, 2]
[set]
steps = {steps}
"""
SLOW = """
methods = ["unhurried"]
tasks = ["notes_two"]
seeds = [1, 2]
plugins = ["unhurried"]
[set]
steps = {steps}
"""
BROKEN = """
from dataclasses import dataclass
from bench.method import Method
from bench.method import register_method

@register_method
@dataclass(frozen=True, kw_only=True)
class Fragile(Method):
    '''Fails until a file is there.'''
    name, title = "fragile", "Fragile"

    def fit(self, job):
        from pathlib import Path
        from bench.posterior import Point
        if not Path("mended").exists():
            raise RuntimeError("no luck")
        return Point(job.model.snapshot())
"""


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def forked(folder: Path, *arguments: str, **environment: str) -> Forked:
    """The same without the imports, and with a pause after every step of SLOW."""
    return Forked(folder, arguments, {**os.environ, PAUSE: "0.04", **environment})


def results(runs: Path) -> dict[str, bytes]:
    files = [file for kind in ("fits", "evals") for file in (runs / kind).rglob("*") if file.name in RESULTS]
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


def attempts(runs: Path) -> list[list[dict[str, Any]]]:
    return [json.loads(file.read_text())["attempts"] for file in sorted(runs.glob("fits/*/facts.json"))]


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The commands of a grid of two long families, sent nowhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.toml").write_text(SLOW.format(steps=150))
    quick = ("--checkpoint-seconds", "0.1", "--claim-seconds", "2")
    assert main(["grid", "g.toml", "--launcher", "print", *quick]) == 0
    return capsys.readouterr().out.splitlines()


# --- print ------------------------------------------------------------------------------------------------------------


def test_print_gives_one_command_a_family_and_nothing_else(submitted: list[str], tmp_path: Path) -> None:
    (sent,) = read_submissions(Store(tmp_path / "runs"))
    assert [line.rpartition(" ")[2] for line in submitted] == ["0", "1"]
    assert all(line.startswith(f"cd {tmp_path} && {sent.command('')}") for line in submitted)
    assert [read_item(sent.families, item)[2].key for item in (0, 1)] == list(sent.keys)


def test_every_methods_family_comes_back_from_a_file_as_it_was(tmp_path: Path) -> None:
    runs = [plan(name, seed=seed) for name in method_names() for seed in (1, 2) if name != "sgld"]
    planned = families([*runs, plan("sgld", steps=50)])
    store = Store(tmp_path / "runs")
    execution = Execution(
        DataSource(Path("data"), True), Path("base"), "cpu", 2, eval_every=7, checkpoint_seconds=1.5, plugins=("a.b",)
    )
    sent = new_submission(store, "print", "g", planned)
    write_submission(sent, execution, planned)
    for item, family in enumerate(planned):
        where, back, found = read_item(sent.families, item)
        assert (found.key, found.root, [key(run) for run in found.runs]) == (
            family.key, family.root, [key(run) for run in family.runs]
        )  # fmt: skip
        assert found.runs == family.runs and found.label == family.label
        here = Path.cwd()
        assert where.root == store.root
        assert back == dataclasses.replace(execution, source=DataSource(here / "data", True), model_path=here / "base")


@pytest.mark.parametrize(
    ("item", "said"),
    [("7", "has no family number 7"), ("-1", "--item -1: families are numbered from 0"), ("x", "--item")],
)
def test_a_number_that_is_none_is_told(
    submitted: list[str], tmp_path: Path, item: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (sent,) = read_submissions(Store(tmp_path / "runs"))
    try:
        assert main(["family", str(sent.families), "--item", item]) == 2
    except SystemExit as refused:
        assert refused.code == 2
    assert said in capsys.readouterr().err
    sent.families.write_text("{}\n")
    assert main(["family", str(sent.families), "--item", "0"]) == 2


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_family_stops_between_steps_when_warned_starts_again_and_a_stalled_one_changes_nothing(
    submitted: list[str], tmp_path: Path
) -> None:
    (sent,) = read_submissions(Store(tmp_path / "runs"))
    claim = tmp_path / "runs/claims" / f"{sent.keys[0]}.json"
    checkpoint = tmp_path / "runs/work" / sent.keys[0] / "checkpoint.safetensors"

    def family(restart: int) -> Forked:
        return forked(tmp_path, "family", str(sent.families), "--item", "0", "--job", "test/1", "--restart",
                      str(restart), "--on-warning", "touch again")  # fmt: skip

    for number, restart in ((signal.SIGTERM, 0), (signal.SIGUSR2, 1)):
        checkpoint.unlink(missing_ok=True)
        process = family(restart)
        until(checkpoint.exists)
        process.send_signal(number)
        said = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 75 and f"{number.name}: stopped after step" in said
        assert not claim.exists() and checkpoint.exists()
        assert (tmp_path / "again").exists() == (number is signal.SIGUSR2)

    # the third start stalls; its claim grows old, another machine (no job, no known process) takes over and publishes
    stalled = family(2)
    until(lambda: any(json.loads(file.read_text())["from_step"] for file in checkpoint.parent.glob("attempt-*")))
    os.kill(stalled.pid, signal.SIGSTOP)
    page = json.loads(claim.read_text())
    claim.write_text(json.dumps({**page, "machine": "another"}))
    second = forked(tmp_path, "family", str(sent.families), "--item", "0", "--job", "test/2", **{PAUSE: "0"})
    said = second.communicate(timeout=PATIENCE)[0]
    assert second.returncode == 0 and "] done: unhurried notes_two seed 1" in said, said
    published = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.rglob("runs/*s/*/*.*")}
    os.kill(stalled.pid, signal.SIGCONT)
    said = stalled.communicate(timeout=PATIENCE)[0]
    assert stalled.returncode == 0 and "held: unhurried notes_two seed 1: another process took the claim" in said
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.rglob("runs/*s/*/*.*")} == published

    (history,) = attempts(tmp_path / "runs")
    assert [(row["job"], row["restart"], row["from_step"] > 0) for row in history] == [
        ("test/1", 0, False), ("test/1", 1, False), ("test/1", 2, True), ("test/2", 0, True)
    ]  # fmt: skip


def test_a_grid_told_to_stop_stops_its_workers_and_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g.toml").write_text(SLOW.format(steps=60))
    process = start(
        tmp_path, "grid", "g.toml", "--workers", "2", "--checkpoint-seconds", "0.05",
        CUDA_VISIBLE_DEVICES="5,7", PYTHONPATH=f"{ROOT}:{ROOT / 'tests/plugins'}", **{PAUSE: "1"},
    )  # fmt: skip
    until(lambda: len(list(tmp_path.glob("runs/work/*/checkpoint.safetensors"))) == 2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 75 and "The same command continues from here" in said
    assert list(tmp_path.glob("runs/claims/*")) == []
    monkeypatch.chdir(tmp_path)
    for runs in ("runs", "whole"):
        assert main(["grid", "g.toml", "--runs", runs]) == 0
    history = attempts(tmp_path / "runs")
    assert [len(each) for each in history] == [2, 2] and all(each[1]["from_step"] > 0 for each in history)
    assert {each[0]["gpus"] for each in history} == {"5", "7"}  # one for each worker
    assert results(tmp_path / "whole") == results(tmp_path / "runs") and len(results(tmp_path / "whole")) == 8


def test_cancel_stops_what_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.toml").write_text(SLOW.format(steps=100_000))
    process = forked(tmp_path, "grid", "g.toml")
    until(lambda: list(tmp_path.glob("runs/work/*/attempt-*")))
    monkeypatch.chdir(tmp_path)
    assert main(["cancel", "g.toml"]) == 0
    assert "SIGTERM: stopped after step" in process.communicate(timeout=PATIENCE)[0] and process.returncode == 75
    assert list(tmp_path.glob("runs/claims/*")) == []


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_family_that_failed_three_times_is_sent_again_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fragile_plugin.py").write_text(BROKEN)
    grid = 'methods = ["fragile", "adamw"]\ntasks = ["notes_two"]\nseeds = [1]\nplugins = ["fragile_plugin"]\n'
    (tmp_path / "g.toml").write_text(grid + "[set]\nsteps = 2\n")
    failures = tmp_path / "runs/failures"
    for count in (1, 2, 3, 3, 3):
        assert main(["grid", "g.toml"]) == 1
        assert len(list(failures.iterdir())) == count
        assert len(list((tmp_path / "runs/evals").iterdir())) == 1  # the other is done, and done once
    said = capsys.readouterr().err
    assert "it failed 3 times and is not tried again" in said and said.count("RuntimeError: no luck") >= 3
    main(["status", "g.toml", "--json"])
    (row, other) = json.loads(capsys.readouterr().out)["families"]
    assert (row["state"], row["failures"], row["reason"]) == ("failed", 3, "RuntimeError: no luck")
    assert other["state"] == "done"
    for name in (row["key"], row["runs"][0]["key"]):
        assert main(["logs", name]) == 0 and capsys.readouterr().out.count("raise RuntimeError") == 3
    assert main(["grid", "g.toml", "--retry-failed"]) == 1 and len(list(failures.iterdir())) == 4
    (tmp_path / "mended").touch()
    assert main(["grid", "g.toml"]) == 1
    assert main(["grid", "g.toml", "--retry-failed"]) == 0
    assert main(["grid", "g.toml"]) == 0


# --- slurm's script ---------------------------------------------------------------------------------------------------


def test_the_script_says_what_the_settings_ask_for_and_runs_the_command(tmp_path: Path) -> None:
    table = {
        "partition": "gpu", "account": "lab", "qos": "long", "time": "4:00:00", "memory": "32G", "cpus": 4,
        "gres": "gpu:a100:1", "constraint": "a100|h100", "sbatch": ["--exclude=n3"],
        "setup": ["module load cuda", "export HF_HUB_OFFLINE=1"], "warn_seconds": 60,
    }  # fmt: skip
    sent = Submission(tmp_path / "a b%c", "slurm", "g", "now", ("k",) * 2500, (("r",),) * 2500)
    text = script(sent, settings_of(table), 1000, 500, 8)
    for option in (
        "--array=0-499%8", "--partition=gpu", "--account=lab", "--qos=long", "--time=4:00:00", "--mem=32G",
        "--cpus-per-task=4", "--gres=gpu:a100:1", "--constraint='a100|h100'", "--exclude=n3", "--requeue",
        "--signal=B:USR2@60", "--open-mode=append", f"--output='{tmp_path}/a b%%c/logs/1000-%a.log'",
    ):  # fmt: skip
        assert f"#SBATCH {option}\n" in text
    assert "\nmodule load cuda\nexport HF_HUB_OFFLINE=1\nexec " in text
    (tmp_path / "s.sh").write_text(text.replace("exec ", "echo "))
    environment = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_JOB_ID": "55", "SLURM_JOB_ID": "62", "SLURMD_NODENAME": "n"}
    said = subprocess.run(["bash", tmp_path / "s.sh"], env=environment, capture_output=True, text=True).stdout
    assert said.endswith(
        f"-m bench family {tmp_path}/a b%c/families.jsonl --item 1007 --job a b%c/55/7 --restart 0 --node n "
        "--on-warning scontrol requeue 62\n"
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"partitoin": "gpu"}, "no key 'partitoin'. Did you mean 'partition'"),
        ({"cpus": "many"}, "slurm.cpus is 'many': expected a whole number"),
        ({"partition": "a\n#SBATCH --evil"}, "give one line"),
        ({"sbatch": ["exclude=n3"]}, "give options of sbatch"),
        ({"warn_seconds": 0}, "give at least 1"),
        ({"cpus": -2}, "use at least 1, or 0 for the cluster's default"),
        ({"partition": True}, "expected"),
        ({"sbatch": ["--job-name=mine"]}, "the suite sets --job-name itself"),
        ({"sbatch": ["--job mine"]}, "the suite sets --job-name itself"),
        ({"sbatch": ["-Jmine"]}, "the suite sets -J itself"),
        ({"sbatch": ["--array=0-99"]}, "the suite sets --array itself"),
        ({"sbatch": ["--no-requeue"]}, "the suite sets --no-requeue itself"),
    ],
)
def test_settings_that_do_not_fit_are_told(table: dict[str, Any], said: str) -> None:
    with pytest.raises((LookupError, ValueError), match=said.replace("(", r"\(")):
        settings_of(table)


def fake(folder: Path, name: str, script_lines: str) -> None:
    """A command on the path, in the place of SLURM's."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(f"#!/bin/bash\n{script_lines}\n")
    (folder / "bin" / name).chmod(0o755)


def test_arrays_above_the_clusters_limit_are_split_and_follow_each_other_when_few_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    fake(tmp_path, "scontrol", "echo 'MaxArraySize            = 3'")
    fake(tmp_path, "squeue", "exit 0")
    fake(tmp_path, "sbatch", f'echo "$@" >> {tmp_path}/sent; wc -l < {tmp_path}/sent')
    (tmp_path / "g.toml").write_text(GRID.format(steps=2).replace("[1, 2]", "[1, 2, 3, 4, 5, 6, 7]"))
    for limit, after in (("0", ["", "", ""]), ("2", ["", "--dependency=afterany:1 ", "--dependency=afterany:2 "])):
        (tmp_path / "sent").unlink(missing_ok=True)
        assert main(["grid", "g.toml", "--launcher", "slurm", "--max-parallel", limit]) == 0
        folder = read_submissions(Store(tmp_path / "runs"))[-1].folder
        assert (tmp_path / "sent").read_text().splitlines() == [
            f"--parsable {extra}{folder}/array-{first}.sh" for extra, first in zip(after, (0, 3, 6), strict=True)
        ]
        arrays = [(folder / f"array-{first}.sh").read_text() for first in (0, 3, 6)]
        limits = "" if limit == "0" else "%2"
        for text, last, item in zip(arrays, (2, 2, 0), ("", " + 3", " + 6"), strict=True):
            assert f"--array=0-{last}{limits}\n" in text and f"SLURM_ARRAY_TASK_ID{item}" in text
        time.sleep(1.1)  # submissions are in the order of their seconds
    assert "submitted 1 family as job 3" in capsys.readouterr().err


def test_a_silent_scheduler_is_told_and_nothing_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    fake(tmp_path, "scontrol", "echo 'MaxArraySize = 1001'")
    fake(tmp_path, "sbatch", f"touch {tmp_path}/sent; echo 1")
    (tmp_path / "g.toml").write_text(GRID.format(steps=2))
    assert main(["grid", "g.toml", "--launcher", "slurm"]) == 0
    (tmp_path / "sent").unlink()
    fake(tmp_path, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert main(["grid", "g.toml", "--launcher", "slurm"]) == 2
    assert "Unable to contact slurm controller" in capsys.readouterr().err and not (tmp_path / "sent").exists()
    assert main(["status", "g.toml"]) == 1
    assert "What waits there is shown as missing" in capsys.readouterr().out
    ours = f"bench-{read_submissions(Store(tmp_path / 'runs'))[0].id}-0"
    others = ("0|RUNNING|n|None|2_0|bench-20200101T000000Z-abcdef-0", "N/A|RUNNING|n|None|3|my|job|1",
              f"N/A|RUNNING|n|None|4|{ours}", f"7|PENDING||None|5_7|{ours}")  # fmt: skip
    fake(tmp_path, "squeue", "\n".join(f"echo '{line}'" for line in (f"0|PENDING||Resources|1_0|{ours}", *others)))
    main(["status", "g.toml", "--json"])
    rows = json.loads(capsys.readouterr().out)["families"]
    assert [(row["state"], row["reason"]) for row in rows] == [("waiting", "Resources"), ("missing", "")]
    assert main(["grid", "g.toml", "--launcher", "slurm"]) == 0
    assert "1 family submitted, 1 already queued" in capsys.readouterr().err
    # the grid has grown: what waits does not compute all of it, so the rest is sent
    (tmp_path / "g.toml").write_text(GRID.format(steps=2).replace('["adamw"]', '["adamw", "mc_dropout"]'))
    main(["status", "g.toml", "--json"])
    row = json.loads(capsys.readouterr().out)["families"][0]
    assert row["state"] == "waiting" and [run["state"] for run in row["runs"]] == ["waiting", "missing"]
    assert main(["grid", "g.toml", "--launcher", "slurm"]) == 0
    assert "2 families submitted, 0 already queued" in capsys.readouterr().err


def test_a_folder_that_slurm_does_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a\\b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "g.toml").write_text(GRID.format(steps=2))
    assert main(["grid", "g.toml", "--launcher", "slurm"]) == 2
    assert "use one without backslashes" in capsys.readouterr().err and not (folder / "runs").exists()


def test_launchers_are_the_files_of_their_folder_and_a_misspelt_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launcher_names() == ["local", "print", "slurm"]
    assert get_launcher("slurm").queue is not None and get_launcher("local").queue is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.toml").write_text(GRID.format(steps=2))
    for arguments, said in (
        (["--launcher", "slrum"], "no launcher 'slrum'. Did you mean 'slurm'"),
        (["--with", "partition=gpu"], "'local' has no settings"),
        (["--launcher", "slurm", "--with", "tme=1"], "no key 'tme'. Did you mean 'time'"),
    ):
        assert main(["grid", "g.toml", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert main(["grid", "g.toml", "--launcher", "slurm", "--dry-run", "--with", "time=04:00:00"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("#!/bin/bash\n") and "#SBATCH --time=04:00:00\n" in shown
    for name in ("local", "print"):
        assert main(["grid", "g.toml", "--launcher", name, "--dry-run"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
    assert not (tmp_path / "runs").exists()


# --- ten thousand families --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def touched() -> Iterator[Counter[str]]:
    """How often files are opened and folders are listed inside, which costs more than all else on a network's disk."""
    found: Counter[str] = Counter()
    counting = True

    def count(event: str, _: object) -> None:
        if counting and event in ("open", "os.listdir", "os.scandir"):
            found[event] += 1

    sys.addaudithook(count)  # it stays until the process ends
    try:
        yield found
    finally:
        counting = False


def test_ten_thousand_families_are_planned_and_looked_at_with_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At most one file is opened for a family, and no folder is listed for it."""
    seeds = ", ".join(map(str, range(2000)))
    grid = f'methods = ["adamw"]\ntasks = ["wg_s", "arc_c", "arc_e", "obqa", "boolq"]\nseeds = [{seeds}]\n'
    (tmp_path / "g.toml").write_text(grid)
    monkeypatch.chdir(tmp_path)
    with touched() as planned:
        assert main(["grid", "g.toml", "--launcher", "print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if " bench family " in line]
    assert len(commands) == 10_000 and shlex.split(commands[-1])[-1] == "9999"
    (sent,) = read_submissions(Store(tmp_path / "runs"))
    evals = tmp_path / "runs/evals"
    with sent.families.open() as stream:
        next(stream)
        names = [name for line in stream for name in json.loads(line)["keys"]]
    for name in names[:9000]:
        (evals / name).mkdir(parents=True)
        (evals / name / "facts.json").write_text("{}\n")
    (tmp_path / "runs/failures").mkdir()
    for name in names[9000:9500]:
        (tmp_path / f"runs/failures/{name}-1.json").write_text('{"error": "ValueError: x"}')
    with touched() as looked:
        main(["status", "g.toml", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"]["families"] == {"done": 9000, "failed": 500, "missing": 500}
    for found in (planned, looked):
        assert found["open"] < 10_100 and found["os.listdir"] + found["os.scandir"] < 100, (planned, looked)
