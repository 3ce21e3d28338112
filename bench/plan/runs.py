"""From settings to specs: what is to be computed, before anything is. Families are the unit of work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bench.data.identity import data_spec
from bench.data.protocol import CLEAN_SHARE, HOLDOUT, splits_for
from bench.data.splits import DataSource
from bench.errors import BrokenPlugin
from bench.method import Method, get_method
from bench.plan.settings import lora_for, method_for, train_for
from bench.specs import MEMBER, Family, FitSpec, ModelSpec, RunSpec, key
from bench.store.store import Store
from bench.task import get_task

_LABEL = re.compile(r"[\w.+ -]{0,64}")  # goes into tables as it is


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
    eval_task: str | None = None,
) -> RunSpec:
    """The spec of one run: ``method_name`` on ``task_name`` with ``seed``.

    With ``tune_share`` that share of the training split is set aside and scored, whatever the protocol reports. With
    ``eval_task`` the posterior is scored on that task, out of distribution: its answers must be the same.

    Raises:
        LookupError, ValueError: something is misspelt or does not fit, in a sentence.
    """
    if not 0 <= seed < MEMBER:
        raise ValueError(f"The seed {seed} is out of range: give one from 0 to {MEMBER - 1} (others are for members).")
    if not _LABEL.fullmatch(variant):
        raise ValueError(f"The variant {variant!r} is no label: use letters, digits, blanks and . _ + - only.")
    task = get_task(task_name)
    splits = splits_for(protocol, task)
    if "train" not in task.rows:
        raise LookupError(f"Task '{task.name}' has no labelled training split: it can only be evaluated on.")
    scored = get_task(eval_task) if eval_task else task
    if scored.answers != task.answers:
        raise ValueError(
            f"What was trained on '{task.name}' answers {', '.join(task.answers)} and cannot be evaluated on "
            f"'{scored.name}', whose answers are {', '.join(scored.answers)}."
        )
    train = train_for(settings, task_name)
    method = method_for(settings, method_name, task_name)
    data = data_spec(task, source)
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
    # what a method that tunes has for it: the split that the protocol leaves for that, else a part of train of its own
    tuning = 0.0 if splits.tuning in task.rows else CLEAN_SHARE
    fit = _fit_spec(method, blank, settings, scored=tune_share, tuning=tuning)
    asked: Method | None = method
    while asked is not None:
        asked.check(task, train)
        asked = method_for(settings, asked.base, task_name) if asked.base else None
    return RunSpec(
        fit=fit,
        method=method.name,
        version=method.version,
        options=method.options("predict"),
        data=data_spec(scored, source),
        split=HOLDOUT if tune_share else splits_for(protocol, scored).reported,
        batch_size=batch_size,
        protocol=protocol,
        variant=variant,
        purpose=purpose,
    )


def _fit_spec(method: Method, blank: FitSpec, settings: dict[str, Any], *, scored: float, tuning: float) -> FitSpec:
    """The fit whose posterior the method predicts with: its own, or the nearest one among its bases.

    A method that tunes leaves the share ``scored`` of train unseen, and its base the share ``tuning`` more.
    """
    if method.base is None and not method.own_fit():
        raise BrokenPlugin(f"Method '{method.name}' neither fits nor names a base: define fit(job) or set `base`.")
    if method.tunes and (method.base is None or not method.own_fit()):
        raise BrokenPlugin(
            f"Method '{method.name}' tunes: define fit(job), and name a `base` to leave examples for it."
        )
    bases: tuple[FitSpec, ...] = ()
    own = beneath = blank
    unseen = scored
    if method.tunes:
        unseen = round(scored + tuning, 9)
        own, beneath = (dataclasses.replace(blank, holdout=share) for share in (scored, unseen))
    if method.base is not None:
        get_method(method.base)
        named = method_for(settings, method.base, blank.data.task)
        base = _fit_spec(named, beneath, settings, scored=unseen, tuning=tuning)
        if not method.own_fit():
            for name in method.options("fit"):
                raise BrokenPlugin(
                    f"{type(method).__qualname__}.{name}: nothing reads it, as '{method.name}' borrows the fit of "
                    f"'{method.base}'. Mark it with Predict(...)."
                )
            method.check_fit(base)
            return base
        bases = method.bases(base)
    fit = dataclasses.replace(
        own, method=method.name, version=method.version, options=method.options("fit"), bases=bases
    )
    method.check_fit(fit)
    return fit


def families(runs: Iterable[RunSpec]) -> list[Family]:
    """Runs grouped by the training they hang from, in the order they were first named; duplicates dropped."""
    grouped: dict[str, dict[str, RunSpec]] = {}
    for run in runs:
        grouped.setdefault(key(run.fit.root), {})[key(run)] = run
    return [Family(next(iter(group.values())).fit.root, tuple(group.values())) for group in grouped.values()]


def missing(wanted: Iterable[Family], store: Store, retries: int) -> tuple[list[Family], list[str]]:
    """(families that are not complete and may be tried, one sentence for each that failed ``retries`` times)."""
    failures = store.failure_files()
    found, given_up = [], []
    for family in wanted:
        done = set(map(key, store.complete(family.runs)))
        undone = [run for run in family.runs if key(run) not in done]
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
