"""The store: folders named by key, whole or absent.

    runs/fits/<key>/   spec.json  posterior.safetensors  trace.jsonl  facts.json
    runs/evals/<key>/  spec.json  predictions.safetensors  facts.json
    runs/failures/<key>-<time>.json
    runs/work/<key>/   checkpoint and attempts of a fit that is under way
    runs/claims/<family>.json   who is at work on a family (bench.process.claim)
    runs/submissions/<id>/      what was sent to a scheduler (bench.launch.submission)

A folder is written as a hidden draft and renamed in one step; if its place is taken, another job was first and its
result stands. Deterministic work makes the two equal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process.claim import sweep_claims
from bench.process.reading import regular
from bench.process.writing import draft
from bench.specs import FitSpec, RunSpec, key, to_json
from bench.store import predictions
from bench.store.facts import FitFacts, RunFacts, digest_of, to_plain
from bench.store.files import (
    DamagedRecord,
    NoRoom,
    UnreadableRecord,
    damaged,
    publish_folder,
    read_json,
    reading,
    sha256,
    sweep,
    write_file,
)  # fmt: skip
from bench.store.records import RunRecord, read_record

if TYPE_CHECKING:
    import numpy as np

    from bench.posterior import Posterior

KEY = re.compile(r"[0-9a-f]{16}")
PREFIX = re.compile(r"[0-9a-f]{4,64}")
FOLDERS = ("fits", "evals", "failures", "work", "claims", "submissions")


class Store:
    """A folder of runs. Nothing is created before something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # --- results ------------------------------------------------------------------------------------------------------

    def folder(self, spec: FitSpec | RunSpec) -> Path:
        """The folder of a spec's result, whether or not it exists yet."""
        return self.root / ("fits" if isinstance(spec, FitSpec) else "evals") / key(spec)

    def has(self, spec: FitSpec | RunSpec) -> bool:
        """Whether the result of a spec is there.

        Raises:
            DamagedRecord: its folder is there without whole facts, which no job of ours leaves behind.
            UnreadableRecord: this process cannot see whether it is there.
        """
        return is_there(self.folder(spec))

    def complete(self, runs: Iterable[RunSpec]) -> list[RunSpec]:
        """Those of ``runs`` whose results are there and whole."""
        return [run for run in runs if is_whole(self.folder(run))]

    def evaluations(self) -> set[str]:
        """The keys of all evaluations that are there and whole."""
        return {entry.name for entry in (self.root / "evals").glob("[0-9a-f]*") if is_whole(entry)}

    def publish(
        self, spec: FitSpec | RunSpec, facts: FitFacts | RunFacts | Mapping[str, Any], write: Callable[[Path], None]
    ) -> bool:
        """Write a result in one step: ``write(folder)`` makes its files, their hashes go into ``facts.json``.

        Returns:
            Whether this call's result is the one in the store (False: another job was first).
        """
        place = self.folder(spec)

        def fill(folder: Path) -> None:
            write(folder)
            (folder / "spec.json").write_text(json.dumps(to_json(spec), indent=1, sort_keys=True) + "\n")
            content = {**to_plain(facts), "files": {file.name: sha256(file) for file in sorted(folder.iterdir())}}
            content["digest"] = digest_of(content)
            text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
            (folder / "facts.json").write_text(text + "\n")

        try:
            publish_folder(place, fill)
        except Exception:  # of any kind: the winner may clear this draft while it is being written
            if self.has(spec):
                return False
            raise
        sweep(place.parent, place.name, 0.0)  # the result is there: nobody needs another
        return True

    def posterior(self, spec: FitSpec) -> Posterior:
        """The stored posterior of a fit.

        Raises:
            DamagedRecord, UnreadableRecord: it is not what its facts say, or cannot be read.
        """
        from bench.posterior import load_posterior

        file = self.folder(spec) / "posterior.safetensors"
        verify(file)
        return load_posterior(file)

    def fit_facts(self, spec: FitSpec) -> dict[str, Any]:
        """The facts of a fit."""
        return read_whole(self.folder(spec) / "facts.json")

    def record(self, spec: RunSpec) -> RunRecord:
        """The record of an evaluation."""
        return read_record(self.folder(spec))

    def predictions(self, spec: RunSpec) -> dict[str, np.ndarray[Any, Any]]:
        """``log_probs`` (S, N, C), ``labels`` (N,) and, where known, ``truth`` (N, C) of an evaluation."""
        file = self.folder(spec) / predictions.FILE
        verify(file)
        return predictions.read_predictions(file)

    def find(self, prefix: str) -> Path:
        """The one fit or evaluation whose key starts with ``prefix``.

        Raises:
            LookupError: none, or more than one.
        """
        if not PREFIX.fullmatch(prefix):
            raise LookupError(f"'{prefix}' is not a key: give at least four hex digits, as `bench status` shows them.")
        paths = [path for kind in ("evals", "fits") for path in sorted((self.root / kind).glob(f"{prefix}*"))]
        found = [path for path in paths if KEY.fullmatch(path.name)]  # not a copy that somebody put next to it
        if not found:
            raise LookupError(
                f"No result starts with '{prefix}' in {self.root}. `bench status GRID` shows keys; --runs names "
                "another store."
            )
        if len(found) > 1:
            raise LookupError(f"{len(found)} results start with '{prefix}' in {self.root}. Give more digits.")
        return found[0]

    # --- work under way -----------------------------------------------------------------------------------------------

    def work(self, spec: FitSpec) -> Path:
        """The folder for the checkpoint of a fit that is under way."""
        return self.root / "work" / key(spec)

    @property
    def claims(self) -> Path:
        """The folder of the claims."""
        return self.root / "claims"

    def claim_file(self, family: str) -> Path:
        """The file that says who is at work on a family (:mod:`bench.process.claim`)."""
        return self.claims / f"{family}.json"

    @property
    def submissions(self) -> Path:
        """The folder of what was sent to schedulers, in full."""
        return self.root.resolve() / "submissions"

    def attempt(self, spec: FitSpec, name: str, content: Mapping[str, Any]) -> None:
        """Note an attempt at a fit: one file each, so that no attempt can spoil another's, however it ends."""
        write_file(self.work(spec) / f"attempt-{name}.json", json.dumps(content) + "\n")

    def attempts(self, spec: FitSpec) -> list[dict[str, Any]]:
        """The attempts at a fit that is under way, oldest first. Those that are damaged are left out."""
        found = []
        for file in sorted(self.work(spec).glob("attempt-*.json")):
            # cut off by a crash of the machine, say, or no number that JSON knows: the fit is worth more
            with contextlib.suppress(OSError, ValueError, RecursionError):
                content = json.loads(regular(file).read_bytes())
                json.dumps(content, allow_nan=False)
                if isinstance(content, dict):
                    found.append(content)
        return found

    def clear(self, spec: FitSpec) -> None:
        """Remove what only a fit under way needs."""
        shutil.rmtree(self.work(spec), ignore_errors=True)

    # --- failures -----------------------------------------------------------------------------------------------------

    def fail(self, spec: FitSpec | RunSpec, error: BaseException, where: Mapping[str, Any] | None = None) -> Path:
        """Record a failure with its trace and the attempt it ended, so that the other families can go on."""
        file = self.root / "failures" / f"{key(spec)}-{time.time_ns()}.json"
        content = {
            "spec": to_json(spec),
            "error": f"{type(error).__name__}: {error}",
            "trace": "".join(traceback.format_exception(error)),
            "attempt": dict(where or {}),
        }
        write_file(file, json.dumps(content, indent=1) + "\n")
        return file

    def failures(self, spec: FitSpec | RunSpec) -> list[Path]:
        """The recorded failures of a spec, oldest first."""
        return sorted((self.root / "failures").glob(f"{key(spec)}-*.json"))

    def failure_files(self) -> dict[str, list[Path]]:
        """The recorded failures of every spec by key, oldest first, from one look at their folder."""
        found: dict[str, list[Path]] = {}
        for file in sorted((self.root / "failures").glob("[0-9a-f]*.json")):
            found.setdefault(file.stem.rpartition("-")[0], []).append(file)
        return found

    # --- the folder itself --------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """See that results can be written here, before any work. Nothing stays behind.

        Raises:
            NotADirectoryError, PermissionError, NoRoom: they cannot; the message names the folder and what to do.
        """
        there = self.root
        while not there.exists() and there != there.parent:
            there = there.parent
        for folder in (there, *(self.root / name for name in FOLDERS if (self.root / name).exists())):
            if not folder.is_dir():
                raise NotADirectoryError(f"--runs {self.root}: {folder} is not a folder. Choose another place.")
            probe = draft(folder / "probe")
            try:
                if there == self.root:
                    probe.write_bytes(bytes(4096))
                elif not os.access(folder, os.W_OK | os.X_OK):
                    probe.mkdir()  # for the system's own reason
            except OSError as error:
                kind = PermissionError if isinstance(error, PermissionError) else NoRoom
                fix = "Choose" if kind is PermissionError else "Make room, or choose"
                raise kind(
                    f"--runs {self.root}: nothing can be written to {folder} ({error.strerror}). {fix} another place."
                ) from error
            finally:
                with contextlib.suppress(OSError):
                    probe.unlink(missing_ok=True)

    def tidy(self, seconds: float) -> None:
        """Remove what killed processes left: old drafts, and claims and work on fits that are done."""
        for folder in (self.root / name for name in FOLDERS):
            sweep(folder, "*", seconds)
        if self.claims.is_dir():
            with contextlib.suppress(OSError):  # a store that may only be read
                sweep_claims(self.claims, seconds, lambda family: is_whole(self.root / "fits" / family))
        for work in (self.root / "work").glob("[0-9a-f]*"):
            sweep(work, "*", seconds)
            if KEY.fullmatch(work.name) and is_whole(self.root / "fits" / work.name):
                shutil.rmtree(work, ignore_errors=True)


def verify(file: Path) -> None:
    """See that a file of a result is the one whose hash is in its ``facts.json``.

    Raises:
        DamagedRecord, UnreadableRecord: it is not, or cannot be read.
    """
    facts = read_json(file.with_name("facts.json"))
    with reading(file):
        if facts["files"][file.name] != sha256(file):
            raise damaged(file, "its content does not match the hash in facts.json")


def is_there(folder: Path) -> bool:
    """Whether a result lies in ``folder``; only the end of its facts is looked at.

    Raises:
        DamagedRecord: the folder is there without whole facts, which no job of ours leaves behind.
        UnreadableRecord: this process cannot see whether it is there.
    """
    file = folder / "facts.json"
    try:
        with regular(file).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 2))
            if stream.read() != b"}\n":
                raise damaged(file, "its end is missing")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        if folder.exists():
            raise damaged(file, "it is missing") from None
        return False
    except OSError as error:
        raise damaged(file, error) from error
    return True


def is_whole(folder: Path) -> bool:
    """Whether a whole result lies in ``folder``. A damaged or unreadable one is found again by whoever computes it."""
    try:
        return is_there(folder)
    except DamagedRecord:
        return False


def read_whole(file: Path) -> dict[str, Any]:
    """The content of a ``facts.json`` or ``spec.json``.

    Raises:
        DamagedRecord, UnreadableRecord: it is missing, not all there, or cannot be read; the message names it.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise damaged(file, "it is not a JSON object")
    return content


__all__ = ["DamagedRecord", "NoRoom", "Store", "UnreadableRecord", "is_there", "is_whole", "read_whole", "verify"]
