"""Submissions: families written to files, so that any process on any machine can compute one of them by its number.

    runs/submissions/<id>/submission.json   launcher, grid, time, the keys of the families and of their runs, in order
    runs/submissions/<id>/families.jsonl    how to compute, then one planned family a line
    runs/submissions/<id>/logs/             what the scheduler's jobs said

A submission never changes once it is written. It lies in the store, so it moves with it. Only standard library at the
top: a job whose family is done ends before torch is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process.reading import regular
from bench.specs import FitSpec, RunSpec, build, key, to_json
from bench.store.files import write_file
from bench.store.store import is_whole

if TYPE_CHECKING:
    from bench.run.execution import Execution
    from bench.specs import Family
    from bench.store.store import Store

_ID = re.compile(r"[0-9TZ]{16}-[0-9a-f]{6}")


@dataclasses.dataclass(frozen=True)
class Submission:
    """One list of families that was sent somewhere."""

    folder: Path
    launcher: str
    grid: str
    time: str
    keys: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]  # of each family

    @property
    def id(self) -> str:
        """Its name, which no other submission of any store has."""
        return self.folder.name

    @property
    def families(self) -> Path:
        """The file of its families."""
        return self.folder / "families.jsonl"

    @property
    def logs(self) -> Path:
        """The folder of its logs."""
        return self.folder / "logs"

    def command(self, item: str) -> str:
        """The shell command that computes family number ``item``, which may be an expression of the shell."""
        return f"{shlex.quote(sys.executable)} -m bench family {shlex.quote(str(self.families))} --item {item}"


def new_submission(store: Store, launcher: str, grid: str, families: Sequence[Family]) -> Submission:
    """A submission that is not written yet."""
    now = datetime.now(UTC)
    folder = store.submissions / f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    sent = tuple(tuple(map(key, family.runs)) for family in families)
    time = now.isoformat(timespec="seconds")
    return Submission(folder, launcher, grid, time, tuple(f.key for f in families), sent)


def write_submission(submission: Submission, execution: Execution, families: Iterable[Family]) -> None:
    """Write its files."""
    submission.logs.mkdir(parents=True)
    from bench.run.execution import pack

    lines = [pack(execution), *map(_pack, families)]
    write_file(submission.families, "".join(json.dumps(line) + "\n" for line in lines))
    about = {name: getattr(submission, name) for name in ("launcher", "grid", "time", "keys", "runs")}
    write_file(submission.folder / "submission.json", json.dumps(about) + "\n")


def read_submission(store: Store, name: str) -> Submission | None:
    """The submission of that id; None if there is none, or none that can be read."""
    file = store.submissions / name / "submission.json"
    if not _ID.fullmatch(name) or not file.is_file():
        return None
    try:
        about = json.loads(regular(file).read_bytes())
        keys, sent = tuple(about["keys"]), tuple(map(tuple, about.get("runs", [()] * len(about["keys"]))))
        return Submission(file.parent, about["launcher"], about["grid"], about["time"], keys, sent)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_submissions(store: Store) -> list[Submission]:
    """All submissions of a store, oldest first."""
    names = sorted(folder.name for folder in store.submissions.glob("*-*"))
    return [found for name in names if (found := read_submission(store, name)) is not None]


def read_item(file: Path, item: int) -> tuple[Store, Execution, Family]:
    """(store, how to compute, family) of a submission's family by its number.

    Raises:
        FileNotFoundError, LookupError, ValueError: no such file, no such number, or not a file of families.
    """
    from bench.run.execution import unpack
    from bench.store.store import Store

    settings, family = _read_lines(file, item)
    try:
        return Store(_store(file)), unpack(settings), _unpack(family)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _no_families(file, error) from error


def peek(file: Path, item: int) -> tuple[Path, str, list[str]]:
    """(store, key of a family of a submission, its evaluations that are not there). Quick: torch is not loaded."""
    runs = _store(file)
    try:
        family = _read_lines(file, item)[1]
        return runs, str(family["key"]), [name for name in family["keys"] if not is_whole(runs / "evals" / name)]
    except (KeyError, TypeError) as error:
        raise _no_families(file, error) from error


def _store(file: Path) -> Path:
    """The store that a submission's file lies in."""
    folders = file.resolve().parents
    if len(folders) < 3 or folders[1].name != "submissions":
        raise FileNotFoundError(f"{file} is in no store: give the families.jsonl of runs/submissions/<id>/.")
    return folders[2]


def _read_lines(file: Path, item: int) -> tuple[Any, Any]:
    """The data of a submission's settings and of one of its families."""
    try:
        with file.open() as stream:
            job = json.loads(next(stream))
            line = next((line for number, line in enumerate(stream) if number == item), None)
        if line is None:
            raise LookupError(f"{file} has no family number {item}: they are numbered from 0.")
        return job, json.loads(line)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {file}: `bench grid ... --launcher print` writes one.") from None
    except (StopIteration, ValueError, RecursionError) as error:
        raise _no_families(file, error) from error


def _no_families(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} is not a file of families ({type(error).__name__}: {error}): submit again.")


def _pack(family: Family) -> dict[str, Any]:
    """A family as JSON data. Its runs share their fits, so each fit is written once."""
    fits: dict[str, int] = {}
    packed: list[Any] = []

    def number(fit: FitSpec) -> int:
        if key(fit) not in fits:
            bases = [number(base) for base in fit.bases]
            packed.append({**to_json(dataclasses.replace(fit, bases=())), "bases": bases})
            fits[key(fit)] = len(packed) - 1
        return fits[key(fit)]

    runs = []
    for run in family.runs:
        fields = {f.name: to_json(getattr(run, f.name)) for f in dataclasses.fields(run) if f.name != "fit"}
        runs.append({**fields, "fit": number(run.fit)})
    root = number(family.root)
    names = {"key": family.key, "label": family.label, "keys": [key(run) for run in family.runs]}
    return {**names, "root": root, "fits": packed, "runs": runs}


def _unpack(data: Any) -> Family:
    from bench.specs import Family

    fits: list[Any] = []
    for fit in data["fits"]:
        fits.append({**fit, "bases": [fits[base] for base in fit["bases"]]})
    runs = tuple(build(RunSpec, {**run, "fit": fits[run["fit"]]}) for run in data["runs"])
    return Family(build(FitSpec, fits[data["root"]]), runs)
