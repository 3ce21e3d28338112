"""The store: folders named by key, whole or absent.

    runs/fits/<key>/   spec.json  posterior.safetensors  trace.jsonl  facts.json
    runs/evals/<key>/  spec.json  predictions.safetensors  facts.json
    runs/failures/<key>-<time>.json
    runs/work/<key>/   checkpoint and attempts of a fit that is under way
    runs/claims/<family>.json   who is at work on a family (bench.process.claim)
    runs/submissions/<id>/      what was sent to a scheduler (bench.launch.submission)

A folder is written under a hidden name beside its place and renamed in one step; if the place is taken, another job was
first and its result stands. Deterministic work makes the two equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.specs import FitSpec, RunSpec, canonical, key, to_json
from bench.store.facts import FitFacts, RunFacts, digest_of, to_plain
from bench.store.records import DamagedRecord, RunRecord, read_record

if TYPE_CHECKING:
    import numpy as np

    from bench.posterior import Posterior

_KEY = re.compile(r"[0-9a-f]{16}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")


class Store:
    """A folder of runs. Nothing is created before something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, spec: FitSpec | RunSpec) -> Path:
        """Where the result of a spec is, or will be."""
        return self.root / ("fits" if isinstance(spec, FitSpec) else "evals") / key(spec)

    def has(self, spec: FitSpec | RunSpec) -> bool:
        """Whether the result of a spec is there.

        Raises:
            DamagedRecord: its folder is there without whole facts, which no job of ours leaves behind.
        """
        return is_there(self.folder(spec))

    def complete(self, runs: Iterable[RunSpec]) -> list[RunSpec]:
        """Those of ``runs`` whose results are there and whole."""
        return [run for run in runs if is_whole(self.folder(run))]

    def publish(
        self, spec: FitSpec | RunSpec, facts: FitFacts | RunFacts | Mapping[str, Any], write: Callable[[Path], None]
    ) -> bool:
        """Write a result in one step: ``write(folder)`` makes its files, their hashes go into ``facts.json``.

        Returns:
            Whether this call's result is the one in the store (False: another job was first).
        """
        place = self.folder(spec)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}"
        try:
            draft.mkdir()
            write(draft)
            (draft / "spec.json").write_text(json.dumps(to_json(spec), indent=1, sort_keys=True) + "\n")
            hashes = {file.name: _sha256(file) for file in sorted(draft.iterdir())}
            content = {**to_plain(facts), "files": hashes}
            content["digest"] = digest_of(content)
            text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
            (draft / "facts.json").write_text(text + "\n")
            for file in draft.iterdir():
                _sync(file)
            draft.rename(place)  # refused when the place is taken: result folders are never empty
        except Exception:  # of any kind: the winner may clear this draft while it is being written
            if self.has(spec):
                return False
            raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _sync(place.parent)
        for left_by_a_kill in place.parent.glob(f".{place.name}.*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        return True

    def posterior(self, spec: FitSpec) -> Posterior:
        """The stored posterior of a fit.

        Raises:
            ValueError: it is damaged.
        """
        from bench.posterior import load_posterior

        file = self.folder(spec) / "posterior.safetensors"
        self._verify(file)
        return load_posterior(file)

    def fit_facts(self, spec: FitSpec) -> dict[str, Any]:
        """The facts of a fit."""
        return read_whole(self.folder(spec) / "facts.json")

    def record(self, spec: RunSpec) -> RunRecord:
        """The record of an evaluation."""
        return read_record(self.folder(spec))

    def predictions(self, spec: RunSpec) -> dict[str, np.ndarray[Any, Any]]:
        """``log_probs`` (S, N, C), ``labels`` (N,) and, where known, ``truth`` (N, C) of an evaluation."""
        file = self.folder(spec) / "predictions.safetensors"
        self._verify(file)
        return read_predictions(file)

    def _verify(self, file: Path) -> None:
        facts = file.parent / "facts.json"
        try:
            wanted = json.loads(facts.read_text())["files"][file.name]
            found = _sha256(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(file, str(error)) from error
        if wanted != found:
            raise _damaged(file, "its content does not match the hash in facts.json")

    def work(self, spec: FitSpec) -> Path:
        """The folder for the checkpoint of a fit that is under way."""
        return self.root / "work" / key(spec)

    def claim_file(self, family: str) -> Path:
        """The file that says who is at work on a family (:mod:`bench.process.claim`)."""
        return self.root / "claims" / f"{family}.json"

    def attempt(self, spec: FitSpec, name: str, content: Mapping[str, Any]) -> None:
        """Note an attempt at a fit: one file each, so that no attempt can spoil another's, however it ends."""
        folder = self.work(spec)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{name}"
        draft.write_text(json.dumps(content) + "\n")
        _sync(draft)
        draft.rename(folder / f"attempt-{name}.json")

    def attempts(self, spec: FitSpec) -> list[dict[str, Any]]:
        """The attempts at a fit that is under way, oldest first."""
        found = []
        for file in sorted(self.work(spec).glob("attempt-*.json")):
            with contextlib.suppress(ValueError):  # cut off by a crash of the machine: the fit is worth more
                if isinstance(content := json.loads(file.read_text()), dict):
                    found.append(content)
        return found

    def clear(self, spec: FitSpec) -> None:
        """Remove what only a fit under way needs."""
        shutil.rmtree(self.work(spec), ignore_errors=True)

    def fail(self, spec: FitSpec | RunSpec, error: BaseException, where: Mapping[str, Any] | None = None) -> Path:
        """Record a failure with its trace and the attempt it ended, so that the other families can go on."""
        folder = self.root / "failures"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{key(spec)}-{time.time_ns()}.json"
        content = {
            "spec": to_json(spec),
            "error": f"{type(error).__name__}: {error}",
            "trace": "".join(traceback.format_exception(error)),
            "attempt": dict(where or {}),
        }
        draft = folder / f".{file.name}"
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.rename(file)
        return file

    def failures(self, spec: FitSpec | RunSpec) -> list[Path]:
        """The recorded failures of a spec, oldest first."""
        return sorted((self.root / "failures").glob(f"{key(spec)}-*.json"))

    def evaluations(self) -> set[str]:
        """The keys of all evaluations that are there and whole."""
        return {entry.name for entry in (self.root / "evals").glob("[0-9a-f]*") if is_whole(entry)}

    def failure_files(self) -> dict[str, list[Path]]:
        """The recorded failures of every spec by key, oldest first, from one look at their folder."""
        found: dict[str, list[Path]] = {}
        for file in sorted((self.root / "failures").glob("[0-9a-f]*.json")):
            found.setdefault(file.stem.rpartition("-")[0], []).append(file)
        return found

    def find(self, prefix: str) -> Path:
        """The one fit or evaluation whose key starts with ``prefix``.

        Raises:
            LookupError: none, or more than one.
        """
        if not _PREFIX.fullmatch(prefix):
            raise LookupError(f"'{prefix}' is not a key: give at least four hex digits, as `bench status` shows them.")
        paths = [path for kind in ("evals", "fits") for path in sorted((self.root / kind).glob(f"{prefix}*"))]
        found = [path for path in paths if _KEY.fullmatch(path.name)]  # not a copy that somebody put beside it
        if len(found) != 1:
            what = f"{len(found)} results start" if found else "No result starts"
            raise LookupError(f"{what} with '{prefix}' in {self.root}. Give more digits, or another --runs folder.")
        return found[0]


def is_there(folder: Path) -> bool:
    """Whether a result lies in ``folder``; only the end of its facts is looked at.

    Raises:
        DamagedRecord: the folder is there without whole facts, which no job of ours leaves behind.
    """
    file = folder / "facts.json"
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 2))
            if stream.read() != b"}\n":
                raise _damaged(file, "its end is missing")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        if folder.exists():
            raise _damaged(file, "it is missing") from None
        return False
    return True


def is_whole(folder: Path) -> bool:
    """Whether a result lies in ``folder``; a damaged one does not. It is found again by whoever computes it."""
    try:
        return is_there(folder)
    except DamagedRecord:
        return False


def read_whole(file: Path) -> dict[str, Any]:
    """The content of a ``facts.json`` or ``spec.json``.

    Raises:
        DamagedRecord: it is missing, or not all there; the message names it.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return content
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error


def write_predictions(file: Path, log_probs: Any, labels: Any, ids: tuple[str, ...], truth: Any | None) -> None:
    """Predictions as arrays in a safetensors file: per example and draw, so every metric can be recomputed."""
    from safetensors.numpy import save_file

    arrays = {"log_probs": log_probs, "labels": labels}
    if truth is not None:
        arrays["truth"] = truth
    save_file(arrays, file, metadata={"ids": canonical(list(ids))})


def read_predictions(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a predictions file. Needs numpy only."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, why: str) -> DamagedRecord:
    return DamagedRecord(f"{file} is damaged ({why}): delete the folder {file.parent} and run the grid again.")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
