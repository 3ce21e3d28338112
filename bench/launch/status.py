"""The state of every family of a grid. The store is the only truth; a scheduler only adds to it."""

from __future__ import annotations

import collections
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.launch.launcher import Queued, Silent, State, queued
from bench.plan.runs import count_fits
from bench.process.holder import read_claims
from bench.process.progress import clock_text
from bench.process.reading import regular
from bench.process.text import counted
from bench.specs import Family, key
from bench.store.store import Store


@dataclasses.dataclass(frozen=True)
class FamilyStatus:
    """The state of a family. ``runs`` maps each evaluation's key to its state; times in seconds, None if unknown."""

    family: Family
    state: State
    runs: dict[str, State]
    node: str = ""
    job: str = ""
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    fraction: float = 0.0
    elapsed: float | None = None
    eta: float | None = None
    reason: str = ""
    failures: int = 0

    @property
    def at(self) -> str:
        """The state in words."""
        counts = f" {self.step}/{self.steps}" if self.steps else f" {self.step} examples" if self.step else ""
        parts = [
            f"on {self.node}" if self.node else "",
            f"{self.stage}{counts}" if self.stage else "",
            f"{clock_text(self.elapsed)} elapsed" if self.elapsed is not None else "",
            f"about {clock_text(self.eta)} left" if self.eta is not None else "",
            self.reason,
        ]
        return ", ".join(filter(None, parts))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        root = self.family.root
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("family", "runs")}
        runs = [
            {"key": key(run), "method": run.method, "options": dict(run.options), "state": self.runs[key(run)]}
            for run in self.family.runs
        ]
        named = {"key": self.family.key, "label": self.family.label, "task": root.data.task, "seed": root.seed}
        return {**named, "variant": self.family.runs[0].variant, **rest, "runs": runs}


def family_states(families: Iterable[Family], store: Store, queue: Mapping[str, Queued]) -> list[FamilyStatus]:
    """The state of each family, in order; ``queue`` is what schedulers say (:func:`bench.launch.launcher.queued`).

    Each folder of the store is listed once, whatever the number of families.
    """
    done, failures = store.evaluations(), store.failure_files()
    claims = read_claims(store.claims)
    found = []
    for family in families:
        keys = [key(run) for run in family.runs]
        open_keys = [name for name in keys if name not in done]
        files = [file for name in open_keys for file in failures.get(name, ())]
        count = max((len(failures.get(name, ())) for name in open_keys), default=0)
        held, job = claims.get(family.key, {}), queue.get(family.key)
        about: dict[str, Any] = {"failures": count}
        if not open_keys:
            state = State.DONE
        elif held.get("alive"):
            state = State.RUNNING
            about |= {name: held.get(name) for name in ("stage", "step", "steps")}
            about |= {"node": held["node"], "job": held["job"], "fraction": held.get("fraction", 0.0)}
            about |= {"elapsed": max(0.0, time.time() - held["since"]), "eta": held.get("left")}
            about["stage"] = about["stage"] or "starting"
        elif job is not None:
            state = job.state
            about |= {"node": job.node, "job": job.id, "reason": job.reason}
            about["stage"] = "starting" if state == State.RUNNING else ""
        elif files:
            state = State.FAILED
            about["reason"] = last_error(files)
        else:
            state = State.MISSING
            about["reason"] = f"its process on {held['node']} is gone" if held else ""
        coming = set(keys) if held.get("alive") else job.runs if job is not None else set()
        each = {
            name: State.DONE
            if name in done
            else state
            if name in coming
            else State.FAILED
            if name in failures
            else State.MISSING
            for name in keys
        }
        found.append(FamilyStatus(family, state, each, **about))
    return found


def last_error(files: list[Path]) -> str:
    """The error of the newest of some failure files."""
    newest = max(files, key=lambda file: file.stem.rpartition("-")[2])
    try:
        return str(json.loads(regular(newest).read_bytes())["error"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return f"{newest} cannot be read"


def count_states(states: Iterable[State]) -> dict[str, int]:
    """Counts per state; empty states are left out."""
    found = collections.Counter(states)
    return {state: found[state] for state in State if state in found}


def _describe(row: FamilyStatus) -> Iterator[str]:
    """A line for the family, and one for each of its evaluations."""
    yield f"  {row.family.key}  {row.family.label}" + (f": {row.at}" if row.at else "")
    for run in row.family.runs:
        knobs = ", ".join(f"{name}={value}" for name, value in run.options.items())
        yield f"    {key(run)}  {row.runs[key(run)]:8} {run.method}" + (f" ({knobs})" if knobs else "")


def grid_status(grid: Any, store: Store) -> tuple[dict[str, Any], list[str], bool]:
    """(for programs, lines to print, whether everything is done)."""
    lines, notes = list[str](), list[str]()
    try:
        queue = queued(store)
    except Silent as silent:  # the store still tells what is done
        queue = {}
        notes.append(f"{silent} What waits there is shown as missing.")
    rows = family_states(grid.families(), store, queue)
    for state in State:  # states that need attention come last, next to the counts
        group = [row for row in rows if row.state == state]
        if group:
            lines.append(f"{state}: {len(group)} of {counted(len(rows), 'family', 'families')}")
        for row in group:
            lines += _describe(row)
    planned = [run for row in rows for run in row.family.runs]
    lines += notes
    families = count_states(row.state for row in rows)
    evaluations = count_states(state for row in rows for state in row.runs.values())
    fits = ", ".join(f"{count} {method}" for method, count in count_fits(planned).items())
    lines.append(
        f"{counted(len(rows), 'family', 'families')}: "
        + ", ".join(f"{count} {state}" for state, count in families.items())
        + "."
    )
    lines.append(
        f"{counted(len(planned), 'evaluation')}: "
        + ", ".join(f"{count} {state}" for state, count in evaluations.items())
        + f". Fits needed in all: {fits}."
    )
    data = {
        "grid": grid.name,
        "notes": notes,
        "counts": {"families": families, "evaluations": evaluations},
        "families": [row.to_json() for row in rows],
    }
    return data, lines, set(families) <= {State.DONE}
