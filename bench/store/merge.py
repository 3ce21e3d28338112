"""``bench merge``: bring the results of other stores into one, whole folders at a time, or not at all.

A result is named by its spec, so two stores agree on a key when its spec, posterior or predictions are the same bytes;
traces and facts hold seconds and machines, and may differ (the one that is there stands). Everything is checked before
anything is copied:

    damaged    a file is missing, is not listed in facts.json, or does not match its hash there; the spec does not hash
               to the folder's name; or the metrics are not those of the predictions
    conflict   one key, other bytes: two computations of one spec disagree, which the one who asks must look into

Either stops the merge with every such folder named. What is copied appears in one step, fits before evaluations.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.specs import FitSpec, RunSpec, build, key
from bench.store.records import DamagedRecord, read_record

KINDS: Mapping[str, type[FitSpec] | type[RunSpec]] = {"fits": FitSpec, "evals": RunSpec}  # in the order of copying
RESULT = {"fits": ("spec.json", "posterior.safetensors"), "evals": ("spec.json", "predictions.safetensors")}
_KEY = re.compile(r"[0-9a-f]{16}")


class Refused(ValueError):
    """A merge that was not made; the message names every folder that stands in its way."""


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge did, or would do: folders and the places they go to, and how many were there already."""

    copied: tuple[tuple[Path, Path], ...]
    known: int

    def summary(self, dry_run: bool) -> str:
        """One line."""
        fits = sum(place.parent.name == "fits" for _, place in self.copied)
        done = "would be copied" if dry_run else "copied"
        return f"{fits} fits and {len(self.copied) - fits} evaluations {done}; {self.known} were there already"


def merge_stores(sources: Sequence[Path], into: Path, dry_run: bool = False) -> Merged:
    """Copy the results of ``sources`` that ``into`` lacks.

    Raises:
        ValueError: a source is ``into`` itself or holds no result.
        Refused: a folder is damaged, or two disagree on one key. Nothing was copied.
    """
    plan: dict[Path, tuple[Path, dict[str, str]]] = {}  # place -> the folder that goes there, its hashes
    known, refusals = 0, []
    for source in sources:
        if source.resolve() == into.resolve():
            raise ValueError(f"{source} is the store to merge into: name another one.")
        folders = [(kind, folder) for kind in KINDS for folder in sorted((source / kind).glob("[0-9a-f]*"))]
        if not folders:
            raise ValueError(f"{source} holds no result: give a store, a folder with fits/ and evals/ in it.")
        for kind, folder in folders:
            place = into / kind / folder.name
            try:
                hashes = verify(folder, kind)
                if place in plan:
                    other, theirs = plan[place]
                elif place.exists():
                    other, theirs = place, verify(place, kind)
                else:
                    plan[place] = folder, hashes
                    continue
            except DamagedRecord as error:
                refusals.append(str(error))
                continue
            differing = [name for name in RESULT[kind] if hashes[name] != theirs[name]]
            if differing:
                refusals.append(f"{folder} and {other} are one key with different {' and '.join(differing)}.")
            known += not differing
    if refusals:
        raise Refused("\n".join([*refusals, f"Nothing was copied into {into}."]))
    copied = tuple(sorted(((folder, place) for place, (folder, _) in plan.items()), key=_fits_first))
    if not dry_run:
        for folder, place in copied:
            _copy(folder, place)
    return Merged(copied, known)


def _fits_first(pair: tuple[Path, Path]) -> tuple[bool, str]:
    return pair[1].parent.name != "fits", pair[1].name


def verify(folder: Path, kind: str) -> dict[str, str]:
    """The hashes of a result's files, recomputed.

    Raises:
        DamagedRecord: it is not a whole and undamaged result of the store.
    """
    if folder.is_symlink() or not folder.is_dir() or not _KEY.fullmatch(folder.name):
        raise _damaged(folder, "it is not a folder named by a key")
    there = {file.name: file for file in folder.iterdir()}
    if any(file.is_symlink() or not file.is_file() for file in there.values()):
        raise _damaged(folder, "something in it is not a plain file")
    hashes = {name: _sha256(file) for name, file in sorted(there.items()) if name != "facts.json"}
    try:
        wanted = dict(json.loads(there["facts.json"].read_text())["files"])
        found = key(build(KINDS[kind], json.loads(there["spec.json"].read_text())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    wrong = sorted(name for name in {*wanted, *hashes, *RESULT[kind]} if wanted.get(name) != hashes.get(name, ""))
    if wrong:
        raise _damaged(folder, f"{', '.join(wrong)} is missing, or not what facts.json lists")
    if found != folder.name:
        raise _damaged(folder, f"spec.json hashes to {found}: it was edited, or is of another version of the suite")
    if kind == "evals":
        _check_metrics(folder, read_record(folder).metrics)
    return hashes


def _check_metrics(folder: Path, claimed: Mapping[str, float]) -> None:
    """The metrics that can be recomputed from the predictions are those in the facts."""
    from bench.metrics import score
    from bench.store.store import read_predictions

    arrays = read_predictions(folder / "predictions.safetensors")
    try:
        found = score(arrays["log_probs"], arrays["labels"])
    except (KeyError, ValueError, IndexError) as error:
        raise _damaged(folder, f"its predictions cannot be scored: {error}") from error
    for name, value in found.items():
        if not math.isclose(claimed.get(name, math.nan), value, rel_tol=1e-9, abs_tol=1e-9):
            raise _damaged(folder, f"facts.json says {name} is {claimed.get(name)}, its predictions give {value}")


def _copy(folder: Path, place: Path) -> None:
    """Copy a folder in one step: under a hidden name, then renamed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}"
    try:
        shutil.copytree(folder, draft)
        draft.rename(place)
    except OSError as error:
        if not place.exists():
            raise
        raise Refused(f"{place} was written while {folder} was being copied there: merge again.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _damaged(folder: Path, why: str) -> DamagedRecord:
    return DamagedRecord(f"{folder} is damaged: {why}.")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(merged: Merged) -> list[str]:
    """A line for every folder that was or would be copied, with what it is."""
    return [f"{folder} -> {place}: {_what(folder)}" for folder, place in merged.copied]


def _what(folder: Path) -> str:
    spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
    fit = spec.get("fit", spec)
    return f"{spec['method']} on {fit['data']['task']}, seed {fit['seed']}"
