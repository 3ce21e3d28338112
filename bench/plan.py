"""From settings to specs: what is to be computed, before anything is. Families are the unit of work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from bench.data import DataSource, data_spec
from bench.method import Method
from bench.options import options_of
from bench.protocol import HOLDOUT, splits_for
from bench.registry import get_method, get_task
from bench.settings import lora_for, method_for, train_for
from bench.specs import FitSpec, ModelSpec, RunSpec, key
from bench.store import Store


@dataclasses.dataclass(frozen=True)
class Family:
    """One root training and all the evaluations that hang from it, for one task and seed."""

    root: FitSpec
    runs: tuple[RunSpec, ...]

    @property
    def key(self) -> str:
        """The key of the root fit."""
        return key(self.root)

    @property
    def label(self) -> str:
        """What to call it on the screen."""
        variant = self.runs[0].variant
        return " ".join(filter(None, [self.root.method, self.root.data.task, f"seed {self.root.seed}", variant]))


def plan_run(
    method_name: str,
    task_name: str,
    seed: int,
    *,
    settings: dict[str, Any],
    model: ModelSpec,
    source: DataSource,
    protocol: str = "paper",
    variant: str = "",
    purpose: str = "result",
    tune_share: float = 0.0,
    batch_size: int = 32,
) -> RunSpec:
    """The spec of one run: ``method_name`` on ``task_name`` with ``seed``.

    With ``tune_share`` that share of the training split is set aside and scored, whatever the protocol reports.

    Raises:
        LookupError, ValueError: something is misspelt or does not fit, in a sentence.
    """
    task = get_task(task_name)
    splits = splits_for(protocol, task)
    if "train" not in task.rows:
        raise LookupError(f"Task '{task.name}' has no labelled training split: it can only be evaluated on.")
    train = train_for(settings, task_name)
    method = method_for(settings, method_name, task_name)
    data = data_spec(task_name, source)
    blank = FitSpec(
        method="",
        version=0,
        options={},
        data=data,
        holdout=tune_share or splits.holdout,
        model=dataclasses.replace(model, lora=lora_for(settings)),
        train=train,
        seed=seed,
    )
    fit = _fit_spec(method, blank, settings)
    asked: Method | None = method
    while asked is not None:
        asked.check(task, train)
        asked = method_for(settings, asked.base, task_name) if asked.base else None
    return RunSpec(
        fit=fit,
        method=method.name,
        version=method.version,
        options=options_of(method, "predict"),
        data=data,
        split=HOLDOUT if tune_share else splits.reported,
        batch_size=batch_size,
        protocol=protocol,
        variant=variant,
        purpose=purpose,
    )


def _fit_spec(method: Method, blank: FitSpec, settings: dict[str, Any]) -> FitSpec:
    """The fit whose posterior the method predicts with: its own, or the nearest one among its bases."""
    if method.base is None and not method.own_fit():
        raise TypeError(f"Method '{method.name}' neither fits nor names a base: define fit(job) or set `base`.")
    bases: tuple[FitSpec, ...] = ()
    if method.base is not None:
        get_method(method.base)
        base = _fit_spec(method_for(settings, method.base, blank.data.task), blank, settings)
        if not method.own_fit():
            return base
        bases = method.bases(base)
    return dataclasses.replace(
        blank, method=method.name, version=method.version, options=options_of(method, "fit"), bases=bases
    )


def families(runs: Iterable[RunSpec]) -> list[Family]:
    """Runs grouped by the training they hang from, in the order they were first named; duplicates dropped."""
    grouped: dict[str, dict[str, RunSpec]] = {}
    for run in runs:
        grouped.setdefault(key(run.fit.root), {})[key(run)] = run
    return [Family(next(iter(group.values())).fit.root, tuple(group.values())) for group in grouped.values()]


def missing(wanted: Iterable[Family], store: Store, retries: int) -> tuple[list[Family], list[str]]:
    """(families that are not complete and may be tried, one sentence for each that failed ``retries`` times).

    Raises:
        DamagedRecord: a result's folder is there without its facts.
    """
    failures = store.failure_files()
    found, given_up = [], []
    for family in wanted:
        undone = [run for run in family.runs if not store.has(run)]
        count = max((len(failures.get(key(run), ())) for run in undone), default=0)
        if undone and count >= retries:
            given_up.append(
                f"{family.label}: it failed {count} times and is not tried again. See `bench logs {family.key}`, mend "
                "the cause, and give --retry-failed."
            )
        elif undone:
            found.append(family)
    return found, given_up


def count_fits(runs: Sequence[RunSpec]) -> dict[str, int]:
    """How many distinct fits of each method a list of runs needs."""
    found: dict[str, FitSpec] = {}

    def visit(fit: FitSpec) -> None:
        found[key(fit)] = fit
        for base in fit.bases:
            visit(base)

    for run in runs:
        visit(run.fit)
    counts: dict[str, int] = {}
    for fit in found.values():
        counts[fit.method] = counts.get(fit.method, 0) + 1
    return counts
