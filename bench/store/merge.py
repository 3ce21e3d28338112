"""``bench merge``: bring the results of other stores into one, whole folders at a time.

A result is named by its spec, so two stores agree on a key when its spec, posterior or predictions are the same bytes;
traces and facts hold seconds and machines, and may differ (the one that is there stays). Everything is checked before
anything is copied:

    damaged     a file is missing, is not listed in facts.json, or does not match its hash there; the spec does not hash
                to the folder's name; or a metric that the facts claim is not that of the predictions
    conflict    same key, different bytes: two computations of one spec disagree
    mixed data  two results name the same rows (task, version, revision, split) and saw different ones

Each stops the merge with every such folder named. A source may have been written by anybody: of a result only its known
files are copied, their contents only, as new files of the user who merges; links and other things are refused. Each
result appears in one step, fits before evaluations.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.process.text import counted
from bench.specs import DataSpec, FitSpec, RunSpec
from bench.store.facts import FitFacts, RunFacts
from bench.store.files import DamagedRecord, no_room, publish_folder, sha256
from bench.store.predictions import FILE as PREDICTIONS
from bench.store.predictions import read_predictions
from bench.store.records import read_facts, read_spec
from bench.store.store import KEY, Store

RESULT = {"fits": ("spec.json", "posterior.safetensors"), "evals": ("spec.json", PREDICTIONS)}  # the same for one key
FILES = {"fits": {*RESULT["fits"], "trace.jsonl", "facts.json"}, "evals": {*RESULT["evals"], "facts.json"}}
HOLDOUT = "holdout"  # the split that is a part of train (bench.data.protocol)


class Refused(ValueError):
    """A merge that was not made, with every folder that stands in its way; or that stopped, with how far it came."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A whole and undamaged result: its folder, its spec, the hashes of its files, and the rows that it saw."""

    folder: Path
    spec: FitSpec | RunSpec
    hashes: Mapping[str, str]
    rows: Mapping[tuple[str, int, str, str], str]  # (task, version, revision, split) to fingerprint

    @property
    def kind(self) -> str:
        """The folder of a store that it belongs in."""
        return "fits" if isinstance(self.spec, FitSpec) else "evals"

    def __str__(self) -> str:
        fit = self.spec if isinstance(self.spec, FitSpec) else self.spec.fit
        return f"{self.spec.method} on {fit.data.task}, seed {fit.seed}"


@dataclasses.dataclass(frozen=True)
class Merged:
    """The outcome of a merge, done or planned: results with their destinations, and how many existed already."""

    copied: tuple[tuple[Result, Path], ...]
    known: int

    def summary(self, dry_run: bool) -> str:
        """One line."""
        fits = sum(result.kind == "fits" for result, _ in self.copied)
        done = "would be copied" if dry_run else "copied"
        evaluations = counted(len(self.copied) - fits, "evaluation")
        return f"{counted(fits, 'fit')} and {evaluations} {done}; {self.known} were there already"

    def describe(self) -> list[str]:
        """A line for every folder that was or would be copied, with what it is."""
        return [f"{result.folder} -> {place}: {result}" for result, place in self.copied]


def merge_stores(sources: Sequence[Store], into: Store, dry_run: bool = False) -> Merged:
    """Copy the results of ``sources`` that ``into`` lacks.

    Raises:
        ValueError: a source is ``into`` itself or holds no result.
        Refused: a folder is damaged, two disagree on one key, or two saw different rows under one name, and nothing was
            copied; or something could not be written, or changed meanwhile.
    """
    plan: dict[Path, Result] = {}  # place -> the result that goes there
    known, refusals = 0, []
    rows = _Rows(into)
    for source in sources:
        for kind, folder in _folders(source, into):
            place = into.root / kind / folder.name
            try:
                result = verify(folder, kind)
                other = plan.get(place) or (verify(place, kind, links=True) if place.exists() else None)
            except DamagedRecord as error:
                refusals.append(str(error))
                continue
            refusals += rows.differing(result)
            if other is None:
                plan[place] = result
                continue
            differing = [name for name in RESULT[kind] if result.hashes[name] != other.hashes[name]]
            if differing:
                refusals.append(
                    f"{folder} and {other.folder} have the same key, but different {' and '.join(differing)}: "
                    "investigate before merging."
                )
            known += not differing
    if refusals:
        raise Refused("\n".join([*refusals, f"Nothing was copied into {into.root}."]))
    copied = sorted(((result, place) for place, result in plan.items()), key=lambda pair: _fits_first(*pair))
    for done, (result, place) in enumerate(() if dry_run else copied):
        try:
            _copy(result, place)
        except OSError as error:
            raise Refused(
                f"{no_room(error) or error}. {done} of {len(copied)} results were copied into {into.root}: correct "
                "that and merge again, which copies the rest."
            ) from error
    return Merged(tuple(copied), known)


def _folders(source: Store, into: Store) -> list[tuple[str, Path]]:
    """The folders of a source's results, with their kinds, in the order of copying."""
    if source.root.resolve() == into.root.resolve():
        raise ValueError(f"{source.root} is the store to merge into: name another one.")
    found = [(kind, folder) for kind in FILES for folder in sorted((source.root / kind).glob("[0-9a-f]*"))]
    if not found:
        raise ValueError(f"{source.root} holds no result: name a store, a folder with fits/ and evals/ in it.")
    return found


def _fits_first(result: Result, place: Path) -> tuple[bool, str]:
    return result.kind != "fits", place.name


def verify(folder: Path, kind: str, links: bool = False) -> Result:
    """A result, read and checked in full: every hash recomputed, and every metric that can be.

    Args:
        links: whether it may be reached through links, as a user may have made them in a store of their own.

    Raises:
        DamagedRecord: it is not a whole and undamaged result of a store.
        UnreadableRecord: it cannot be read.
    """
    linked = not links and (folder.parent.is_symlink() or folder.is_symlink())
    if linked or not folder.is_dir() or not KEY.fullmatch(folder.name):
        raise _damaged(folder, "it is not a folder named by a key")
    for file in folder.iterdir():
        if file.name not in FILES[kind]:
            raise _damaged(folder, f"{file.name!a} does not belong in it")
        if file.is_symlink() or not file.is_file():
            raise _damaged(folder, f"{file.name} in it is not a plain file")
    spec: FitSpec | RunSpec = read_spec(folder, FitSpec) if kind == "fits" else read_spec(folder, RunSpec)
    facts = read_facts(folder, FitFacts if kind == "fits" else RunFacts)
    there = [name for name in sorted(FILES[kind]) if name != "facts.json" and (folder / name).exists()]
    hashes = {name: sha256(folder / name) for name in there}
    listed = facts.get("files")
    if not isinstance(listed, dict) or listed != hashes or not set(RESULT[kind]) <= set(hashes):
        names = {*(listed if isinstance(listed, dict) else ()), *hashes, *RESULT[kind]}
        wrong = [name for name in sorted(names) if not isinstance(listed, dict) or listed.get(name) != hashes.get(name)]
        raise _damaged(folder, f"{', '.join(map(ascii, wrong)) or 'a file'} is missing, or not what facts.json lists")
    if isinstance(spec, RunSpec):
        _check_metrics(folder, facts["metrics"])
    return Result(folder, spec, hashes, dict(_rows(spec, facts)))


def _check_metrics(folder: Path, claimed: Mapping[str, float]) -> None:
    """Recompute the metrics in the facts from the predictions. Those that this version does not know are left alone."""
    from bench.metrics import contradicted, mixture, score

    arrays = read_predictions(folder / PREDICTIONS)
    found = score(arrays["log_probs"], arrays["labels"], arrays.get("truth"))
    if why := contradicted(claimed, found, mixture(arrays["log_probs"])):
        raise _damaged(folder, why)


def _rows(spec: FitSpec | RunSpec, facts: Mapping[str, object]) -> Iterator[tuple[tuple[str, int, str, str], str]]:
    """The rows that a result saw, by name, and their fingerprint, which facts of earlier versions may lack."""
    fit = spec if isinstance(spec, FitSpec) else spec.fit
    scored = () if isinstance(spec, FitSpec) else ((facts.get("examples"), spec.data, spec.split),)
    behind = facts if isinstance(spec, FitSpec) else facts.get("fit")
    trained = (behind.get("examples") if isinstance(behind, Mapping) else None, fit.data, "train")
    for examples, data, split in (*scored, trained):
        if isinstance(examples, Mapping) and isinstance(examples.get("fingerprint"), str):
            yield _named(data, split), examples["fingerprint"]


def _named(data: DataSpec, split: str) -> tuple[str, int, str, str]:
    return data.task, data.version, data.revision, "train" if split == HOLDOUT else split


class _Rows:
    """The fingerprints that have been seen of each split, those of the store to merge into first."""

    def __init__(self, into: Store) -> None:
        self._seen: dict[tuple[str, int, str, str], tuple[str, Path]] = {}
        for kind in FILES:
            for folder in sorted((into.root / kind).glob("[0-9a-f]*")):
                try:
                    spec = read_spec(folder, FitSpec) if kind == "fits" else read_spec(folder, RunSpec)
                    facts = read_facts(folder, FitFacts if kind == "fits" else RunFacts)
                except DamagedRecord:  # told where it is used
                    continue
                for name, fingerprint in _rows(spec, facts):
                    self._seen.setdefault(name, (fingerprint, folder))

    def differing(self, result: Result) -> list[str]:
        """A sentence for each split of which a result saw other rows than those before it."""
        found = []
        for name, fingerprint in result.rows.items():
            other, folder = self._seen.setdefault(name, (fingerprint, result.folder))
            if other != fingerprint:
                task, _, revision, split = name
                found.append(
                    f"{result.folder} and {folder} saw different rows of the {split} split of {task} at {revision!r} "
                    f"(fingerprints {fingerprint} and {other}): one of them read changed files."
                )
        return found


def _copy(result: Result, place: Path) -> None:
    """Copy the known files of a result, contents only, in one step."""

    def fill(draft: Path) -> None:
        for name in (*result.hashes, "facts.json"):
            (draft / name).write_bytes(_content(result.folder / name))
        changed = [name for name, wanted in result.hashes.items() if sha256(draft / name) != wanted]
        if changed:
            raise Refused(f"{result.folder} changed while it was being copied ({', '.join(changed)}): merge again.")

    try:
        publish_folder(place, fill)
    except OSError as error:
        if not place.exists():
            raise
        raise Refused(f"{place} was written while {result.folder} was being copied there: merge again.") from error


def _content(file: Path) -> bytes:
    """The content of a plain file; links are not followed."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{file} is not a plain file any more: nothing more is copied.")
        return stream.read()


def _damaged(folder: Path, why: str) -> DamagedRecord:
    return DamagedRecord(f"{folder} is damaged: {why}.")
