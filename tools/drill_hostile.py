"""A store that somebody else wrote: merged, shown, reported and cancelled. Nothing outside it may be touched.

    python tools/drill_hostile.py [--leaves]

Spoils copies of a small store in every way below and runs the commands that read one, each in a separate process,
next to a watched folder and a bystander process of the same user. Counted are tracebacks, files made or changed
outside the store and the command's output, set-uid files, escape sequences on the terminal, and bystanders that
ended. With --leaves, every leaf of a facts.json is replaced by null, "x", [] and -1 in turn and read in this process:
counted are replacements that stop the reader or that no sentence names. Exits with 1 unless all are 0.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from analysis.records.load import load
from bench.process.holder import machine, started
from bench.store.facts import digest_of
from bench.store.files import sha256
from bench.store.records import read_records

ROOT = Path(__file__).resolve().parent.parent
GRID = 'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1, 2]\n[set]\nsteps = 3\n'
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("merge", "hostile", "--runs", "mine"),
    ("status", "g.toml", "--runs", "hostile"),
    ("leaderboard", "--runs", "hostile", "--out", "out/leaderboard.csv"),
    ("report", "--runs", "hostile", "--out", "out/report"),
    ("show", "{key}", "--runs", "hostile"),
    ("logs", "{key}", "--runs", "hostile"),
    ("cancel", "g.toml", "--runs", "hostile"),
)
JUNK = (None, "x", [], -1, 10**400)


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A command of the suite; its exit status is its own affair."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=folder, env=environment, capture_output=True, timeout=300
    )


def first(store: Path, kind: str) -> Path:
    """The first result of a kind."""
    return min((store / kind).glob("[0-9a-f]*"))


def facts_of(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the facts of a result and sign them, as a careful forger would."""
    facts = json.loads((folder / "facts.json").read_text())
    change(facts)
    (folder / "facts.json").write_text(json.dumps({**facts, "digest": digest_of(facts)}) + "\n")


def set_uid(store: Path) -> None:
    file = first(store, "evals") / "tool"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o4777)
    facts_of(file.parent, lambda facts: facts["files"].update(tool=sha256(file)))


def link_out(store: Path) -> None:
    file = first(store, "fits") / "trace.jsonl"
    file.unlink()
    file.symlink_to(store.parent / "watched" / "secret")


def path_out(store: Path) -> None:
    facts_of(first(store, "evals"), lambda facts: facts["files"].update({"../../../watched/new": "0" * 64}))


def pipe(store: Path) -> None:
    (first(store, "fits") / "trace.jsonl").unlink()
    os.mkfifo(first(store, "fits") / "trace.jsonl")


def escapes(store: Path) -> None:
    facts_of(first(store, "evals"), lambda facts: facts["fit"].update(warnings=["\x1b]0;title\x07\x1b[31mred"]))


def formula(store: Path) -> None:
    facts_of(first(store, "evals"), lambda facts: facts["provenance"].update(device="=cmd|' /C calc'!A0"))


def claims(processes: list[Any]) -> Callable[[Path], None]:
    """Claims on every family, each naming one of the processes."""

    def spoil(store: Path) -> None:
        (store / "claims").mkdir(exist_ok=True)
        shutil.rmtree(store / "evals")
        for number, folder in enumerate(sorted((store / "fits").glob("[0-9a-f]*"))):
            process = processes[number % len(processes)]
            content = {"token": "t", "seconds": 1e300, "machine": machine(), "label": "\x1b[2J", "process": process}
            if process == "missing":
                del content["process"]
            (store / "claims" / f"{folder.name}.json").write_text(json.dumps(content))

    return spoil


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file below a folder."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mode, file.read_bytes())
        for file in sorted(folder.rglob("*")) if file.is_file()
    }  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all leaves of JSON data."""
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, name))
    else:
        yield path


def every_leaf(store: Path, counts: collections.Counter[str]) -> None:
    """Replace each leaf of the facts of one evaluation, and read all records."""
    file = first(store, "evals") / "facts.json"
    whole = json.loads(file.read_text())
    for path in leaves(whole):
        for junk in JUNK:
            changed = inner = copy.deepcopy(whole)
            for name in path[:-1]:
                inner = inner[name]
            if inner[path[-1]] == junk:
                continue
            inner[path[-1]] = junk
            file.write_text(json.dumps(changed))
            counts["leaves replaced"] += 1
            try:
                good, bad = read_records(store)
            except Exception as error:
                print(f"{'.'.join(map(str, path))} = {junk!r}: {error!r}")
                counts["readers stopped"] += 1
                continue
            counts["records not named"] += len(bad) != 1 or str(file) not in bad[0]
            counts["other records hidden"] += len(good) != 1
            try:
                left_out = load(store).excluded  # as leaderboard and report read it
            except Exception as error:
                print(f"{'.'.join(map(str, path))} = {junk!r}: {error!r}")
                counts["reports stopped"] += 1
                continue
            counts["records not named in a report"] += not any(file.parent.name in sentence for sentence in left_out)
    file.write_text(json.dumps(whole))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--leaves", action="store_true", help="also replace every leaf of a facts.json")
    options = parser.parse_args()
    logging.getLogger("analysis").setLevel(logging.CRITICAL)  # what is left out is counted
    counts: collections.Counter[str] = collections.Counter()
    bystander = subprocess.Popen(["sleep", "3600"])
    since = started(bystander.pid)
    spoilers: dict[str, Callable[[Path], None]] = {
        "set-uid file": set_uid, "link to a file outside": link_out, "path to a file outside": path_out, "pipe": pipe,
        "escape sequences": escapes, "formula": formula,
        "claim on a bystander": claims([[bystander.pid, since]]),
        "claims on -1, 0 and 1": claims([[-1, ""], [0, ""], [1, started(1)]]),
        "claim without a process": claims(["missing"]),
    }  # fmt: skip
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "g.toml").write_text(GRID)
            done = bench(folder, "grid", "g.toml", "--runs", "sound")
            assert done.returncode == 0, done.stderr.decode()
            for name, spoil in spoilers.items():
                for place in ("hostile", "mine", "out", "watched"):
                    shutil.rmtree(folder / place, ignore_errors=True)
                shutil.copytree(folder / "sound", folder / "hostile")
                for place in ("out", "watched"):
                    (folder / place).mkdir()
                (folder / "watched" / "secret").write_text('{"step": 0}\n')
                key = first(folder / "hostile", "evals").name
                spoil(folder / "hostile")
                watched = tree(folder / "watched")
                began = time.monotonic()
                for command in COMMANDS:
                    said = bench(folder, *(word.format(key=key) for word in command))
                    text = said.stdout + said.stderr
                    counts["commands"] += 1
                    counts["tracebacks"] += b"Traceback" in text
                    counts["escape sequences shown"] += b"\x1b" in text
                    counts["bystanders that ended"] += bystander.poll() is not None
                counts["files touched outside"] += tree(folder / "watched") != watched
                made = [file for place in ("mine", "out") for file in (folder / place).rglob("*") if file.is_file()]
                counts["set-uid files"] += sum(bool(file.stat().st_mode & stat.S_ISUID) for file in made)
                counts["formulas in CSV"] += sum(b"=cmd" in file.read_bytes() for file in made if file.suffix == ".csv")
                print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
            if options.leaves:
                every_leaf(folder / "sound", counts)
    finally:
        bystander.kill()
        bystander.wait()
    tried = {name: counts.pop(name, 0) for name in ("commands", "leaves replaced")}
    for name, count in (*tried.items(), *counts.items()):
        print(f"{name}: {count}")
    return 1 if counts.total() else 0


if __name__ == "__main__":
    sys.exit(main())
