"""``bench tune``: one procedure and one budget for every method's settings, on held-out training data only.

For each method of the grid's ``[tune]`` table every combination of the listed values is trained on the training split
less ``holdout`` of it, and scored on what was held out: the mean over tasks and seeds of ``criterion``. The lowest
wins, one choice per method for all tasks. The reported split is never touched. A method whose base is tuned too comes
after it, and starts from the choice made for it. A candidate that diverges anywhere (FloatingPointError) scores
infinity and is not tried again; any other failure stops the search.

    [tune]
    holdout = 0.25
    seeds = [101, 102]
    tasks = ["arc_c"]   # all of the grid's by default
    [tune.ivon]
    lr = [0.1, 0.3]
    ess = [1e4, 1e5]
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from bench.errors import near_miss
from bench.method import get_method
from bench.plan.grid import Grid, check_count
from bench.plan.runs import families
from bench.process.reading import regular
from bench.specs import Family, RunSpec, key
from bench.store.store import Store


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One combination of settings of one method, and the runs that judge it."""

    method: str
    values: Mapping[str, Any]
    runs: tuple[RunSpec, ...]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """All candidates of a grid, and how they are judged."""

    candidates: tuple[Candidate, ...]
    criterion: str
    holdout: float

    def families(self, store: Store | None = None) -> list[Family]:
        """The trainings the search needs, without what has diverged according to ``store``."""
        runs = (run for candidate in self.candidates for run in candidate.runs)
        return families(run for run in runs if store is None or not diverged(run, store))

    def summary(self) -> str:
        """The number of candidates per method."""
        counts: dict[str, int] = {}
        for candidate in self.candidates:
            counts[candidate.method] = counts.get(candidate.method, 0) + 1
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"candidates: {each}; {len(self.families())} trainings, judged by hold-out {self.criterion}"


def stages(grid: Grid) -> list[list[str]]:
    """The methods of ``[tune]`` in the order in which they can be tuned: those that use another's choice after it."""
    names = list(grid.tune.lists)

    def depth(name: str) -> int:
        before = (get_method(name).base, get_method(name).settings_of)
        return max((depth(one) + (one in names) for one in before if one is not None), default=0)

    return [[name for name in names if depth(name) == d] for d in sorted({depth(name) for name in names})]


def plan_tuning(
    grid: Grid, methods: Sequence[str] | None = None, chosen: Mapping[str, Mapping[str, Any]] | None = None
) -> Tuning:
    """The search that a grid's ``[tune]`` table asks for, or the part of it for ``methods``, given what was ``chosen``.

    Raises:
        ValueError, LookupError: the table is missing, misspelt, or gives methods unequal budgets.
    """
    if not grid.tune.lists:
        raise ValueError(f"{grid.name}.toml has no [tune.<method>] table: list the values to try there.")
    for method, lists in grid.tune.lists.items():
        if not lists:
            raise ValueError(f"[tune.{method}] is empty: list the values to try there.")
        given = grid.overrides.get(method, {})
        fixed = {*given, *(name for table in given.get("per_task", {}).values() for name in table)}
        if clash := sorted(fixed & set(lists)):
            raise ValueError(
                f"--set {method}.{clash[0]}: [tune.{method}] tries values of {clash[0]}, so nothing would read this "
                "one. Leave it out, or change the list."
            )
    budgets = {method: math.prod(map(len, lists.values())) for method, lists in grid.tune.lists.items()}
    if len(set(budgets.values())) > 1:
        raise ValueError(f"[tune] gives the methods unequal budgets ({budgets}): list equally many combinations.")
    seeds, tasks = grid.tune.seeds or grid.seeds, grid.tune.tasks or grid.tasks
    for task in tasks:
        if task not in grid.tasks:
            raise LookupError(f"tune.tasks names '{task}', which the grid does not have.{near_miss(task, grid.tasks)}")
    check_count(sum(budgets.values()) * len(tasks) * len(seeds), f"[tune] of {grid.name}")
    base = grid.settings
    for method, values in (chosen or {}).items():
        base = base.over({method: values})
    candidates = []
    for method, lists in grid.tune.lists.items():
        if methods is not None and method not in methods:
            continue
        for combination in itertools.product(*lists.values()):
            values = dict(zip(lists, combination, strict=True))
            settings = base.over({method: values})
            runs = tuple(
                grid.planner.run(
                    method, task, seed, settings, variant="tune", purpose="tune", tune_share=grid.tune.holdout
                )
                for task in tasks
                for seed in seeds
            )
            candidates.append(Candidate(method, values, runs))
    return Tuning(tuple(candidates), grid.tune.criterion, grid.tune.holdout)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A candidate and its mean score over tasks and seeds; one per method is ``chosen``."""

    candidate: Candidate
    score: float
    by_task: Mapping[str, float]
    chosen: bool


def diverged(run: RunSpec, store: Store) -> bool:
    """Whether a run has no result because its numbers overflowed, as they would again."""
    failures = [] if store.complete([run]) else store.failures(run)
    with contextlib.suppress(
        OSError, ValueError, LookupError, TypeError, RecursionError
    ):  # a damaged file tells nothing
        return str(json.loads(regular(failures[-1]).read_bytes())["error"]).startswith("FloatingPointError:")
    return False


def choose(tuning: Tuning, runs: Path) -> list[Scored]:
    """Every candidate with its score, read from the store; ties go to the one listed first.

    Raises:
        ValueError: every candidate of a method has diverged.
    """
    store = Store(runs)
    scored = []
    for candidate in tuning.candidates:
        scores: dict[str, list[float]] = {}
        for run in candidate.runs:
            score = math.inf if diverged(run, store) else store.record(run).metrics[tuning.criterion]
            scores.setdefault(run.data.task, []).append(score)
        by_task = {task: sum(values) / len(values) for task, values in scores.items()}
        scored.append(Scored(candidate, sum(by_task.values()) / len(by_task), by_task, False))
    best = {id(min((s for s in scored if s.candidate.method == m), key=lambda s: s.score))
            for m in {s.candidate.method for s in scored}}  # fmt: skip
    for item in scored:
        if id(item) in best and math.isinf(item.score):
            raise ValueError(
                f"Every candidate of {item.candidate.method} diverged: list gentler values in "
                f"[tune.{item.candidate.method}], such as a lower lr."
            )
    return [dataclasses.replace(s, chosen=id(s) in best) for s in scored]


def _name(name: str) -> str:
    """A file's name in a comment, which is one line."""
    return name if name.isprintable() else ascii(name)


def write_choice(tuning: Tuning, scored: list[Scored], grid_file: Path) -> list[Path]:
    """Write ``<grid>.tuned.toml`` (settings to include in a variant) and ``<grid>.tune.csv`` (every candidate)."""
    heading = (
        f"# Written by `bench tune {_name(grid_file.name)}`: lowest mean {tuning.criterion} on "
        f"{100 * tuning.holdout:g}% of the\n# training split, held out. All candidates: "
        f"{_name(grid_file.stem)}.tune.csv.\n\n"
    )
    chosen = {item.candidate.method: dict(item.candidate.values) for item in scored if item.chosen}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    tasks = list(scored[0].by_task)
    writer.writerow(["method", "settings", *tasks, f"mean_{tuning.criterion}", "chosen", "keys"])
    for item in scored:
        settings = " ".join(_assignment(name, value) for name, value in item.candidate.values.items())
        numbers = [_number(value) for value in (*(item.by_task[task] for task in tasks), item.score)]
        keys = " ".join(key(run) for run in item.candidate.runs)
        writer.writerow([item.candidate.method, settings, *numbers, "yes" if item.chosen else "", keys])
    written = []
    for suffix, text in ((".tuned.toml", heading + tomli_w.dumps(chosen)), (".tune.csv", table.getvalue())):
        file = grid_file.with_suffix(suffix)
        new = file.with_name(file.name + ".new")
        new.write_text(text)
        new.replace(file)
        written.append(file)
    return written


def _number(value: float) -> str:
    return "diverged" if math.isinf(value) else f"{value:.6f}"


def _assignment(name: str, value: Any) -> str:
    """``name=value`` as ``--set`` takes it."""
    return f"{name}={tomli_w.dumps({'x': value}).partition(' = ')[2]}".replace("\n", "")
