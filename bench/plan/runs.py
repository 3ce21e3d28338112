"""From settings to specs: what is to be computed, before anything is. Families are the unit of work."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.data.identity import data_spec
from bench.data.protocol import CLEAN_SHARE, HOLDOUT, splits_for
from bench.data.splits import DataSource
from bench.errors import BrokenPlugin, one_line, shown
from bench.method import Method
from bench.plan.settings import Settings
from bench.specs import MEMBER, DataSpec, Family, FitSpec, ModelSpec, RunSpec, key
from bench.store.store import Store
from bench.task import Task, get_task

MOST_BASES = 1000  # fits that one fit starts from

_LABEL = re.compile(r"[\w.+ -]{0,64}")  # goes into tables as it is
# What a spreadsheet takes for a formula, trims, or takes for a number, a date, a time or a truth value
_NUMBER = re.compile(
    r"[-+@ ].*|.* |[\d.+\- ]*\d[\d.+\- ]*(e[-+]?\d+)?|\d+ [ap]m?|inf|infinity|nan|true|false|none|null|"
    r"(\d+[ -])?(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|"
    r"nov(ember)?|dec(ember)?)[ -]?\d+|\d+[ -](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Planner:
    """Plans runs on one model, from one source of data, under one protocol. Tasks and their data are looked up once."""

    model: ModelSpec
    source: DataSource
    protocol: str = "paper"
    batch_tokens: int = 0
    _tasks: dict[str, Task] = dataclasses.field(default_factory=dict)
    _data: dict[str, DataSpec] = dataclasses.field(default_factory=dict)

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            LookupError: there is no such task; the message names the near misses.
        """
        if name not in self._tasks:
            self._tasks[name] = get_task(name)
        return self._tasks[name]

    def data(self, name: str) -> DataSpec:
        """The identity of a task's data."""
        if name not in self._data:
            self._data[name] = data_spec(self.task(name), self.source)
        return self._data[name]

    def run(
        self,
        method_name: str,
        task_name: str,
        seed: int,
        settings: Settings,
        *,
        variant: str = "",
        purpose: str = "result",
        tune_share: float = 0.0,
        batch_size: int = 32,
        eval_task: str | None = None,
    ) -> RunSpec:
        """The spec of one run: ``method_name`` on ``task_name`` with ``seed``.

        With ``tune_share`` that share of the training split is set aside and scored, whatever the protocol reports.
        With ``eval_task`` the posterior is scored on that task, out of distribution: its answers must be the same.

        Raises:
            LookupError, ValueError: something is misspelt or does not fit, in a sentence.
        """
        check_seed(seed)
        check_label(variant)
        task = self.task(task_name)
        splits = splits_for(self.protocol, task)
        if "train" not in task.rows:
            raise LookupError(f"Task '{task.name}' has no labelled training split: it can only be evaluated on.")
        scored = self.task(eval_task) if eval_task else task
        if scored.answers != task.answers:
            raise ValueError(
                f"What was trained on '{task.name}' answers {', '.join(task.answers)} and cannot be evaluated on "
                f"'{scored.name}', whose answers are {', '.join(scored.answers)}."
            )
        method = settings.method(method_name, task_name)
        # tuning data: the split that the protocol leaves for it, else a part of train
        tuning = 0.0 if splits.tuning in task.rows else CLEAN_SHARE
        fit = self.fit(method_name, task_name, seed, settings, splits.holdout, tuning, tune_share)
        return RunSpec(
            fit=fit,
            method=method.name,
            version=method.version,
            options=method.options("predict"),
            data=self.data(scored.name),
            split=HOLDOUT if tune_share else splits_for(self.protocol, scored).reported,
            batch_size=batch_size,
            protocol=self.protocol,
            variant=variant,
            purpose=purpose,
            batch_tokens=self.batch_tokens,
        )

    def fit(
        self,
        method_name: str,
        task_name: str,
        seed: int,
        settings: Settings,
        holdout: float = 0.0,
        tuning: float = CLEAN_SHARE,
        tune_share: float = 0.0,
    ) -> FitSpec:
        """The spec of the fit that a method predicts with.

        Args:
            holdout: share of the training split that is set aside.
            tuning: share that a method which tunes sets aside for it.
            tune_share: share that is scored by ``bench tune``.

        Raises:
            LookupError, ValueError: something is misspelt or does not fit, in a sentence.
        """
        task, train = self.task(task_name), settings.train(task_name)
        blank = FitSpec(
            method="",
            version=0,
            options={},
            data=self.data(task_name),
            holdout=tune_share or holdout,
            model=dataclasses.replace(self.model, lora=settings.lora),
            train=train,
            seed=seed,
        )
        method = settings.method(method_name, task_name)
        fit = _fit_spec(method, blank, settings, scored=tune_share, tuning=tuning)
        asked: Method | None = method
        while asked is not None:
            with _plugin(asked, "check"):
                asked.check(task, train)
            asked = settings.method(asked.base, task_name) if asked.base else None
        return fit


def plan_run(
    method: str,
    task: str,
    seed: int,
    *,
    settings: dict[str, Any],
    model: ModelSpec,
    source: DataSource,
    protocol: str = "paper",
    **details: Any,
) -> RunSpec:
    """The spec of a single run; ``details`` as :meth:`Planner.run` takes them."""
    return Planner(model, source, protocol).run(method, task, seed, Settings(settings), **details)


def check_seed(seed: int) -> None:
    """Refuse a seed that would meet those of ensemble members."""
    if not 0 <= seed < MEMBER:
        raise ValueError(f"The seed {shown(seed)} is out of range: it must be from 0 to {MEMBER - 1}.")


def check_label(variant: str) -> None:
    """Refuse a variant's label that tables, or spreadsheets that open them, would not show as it is."""
    if not _LABEL.fullmatch(variant):
        raise ValueError(
            f"The variant {shown(variant)} is not a label: use at most 64 letters, digits, blanks and . _ + -"
        )
    if variant and _NUMBER.fullmatch(variant):
        raise ValueError(
            f"The variant {variant!r} is a number, date or formula to a spreadsheet: use a word, such as 'v{variant}'."
        )


def _fit_spec(method: Method, blank: FitSpec, settings: Settings, *, scored: float, tuning: float) -> FitSpec:
    """The fit whose posterior the method predicts with: its own, or the nearest one among its bases.

    A method that tunes leaves the share ``scored`` of train unseen. What it tunes on, the share ``tuning`` more, is
    left out by its base; without a base, by itself.
    """
    where = type(method).__qualname__
    if method.base is None and not method.own_fit():
        raise BrokenPlugin(f"Method '{method.name}' neither fits nor names a base: define fit(job) or set `base`.")
    if method.tunes and not method.own_fit():
        raise BrokenPlugin(f"Method '{method.name}' tunes: define fit(job), which reads job.tuning.")
    bases: tuple[FitSpec, ...] = ()
    own = beneath = blank
    unseen = scored
    if method.tunes:
        unseen = round(scored + tuning, 9)
        if unseen >= 1:
            raise ValueError(
                f"{method.name} sets {100 * tuning:g} % of the training split aside for tuning, and {100 * scored:g} % "
                "is scored, so nothing is left to train on: lower holdout."
            )
        own, beneath = (dataclasses.replace(blank, holdout=share) for share in (scored, unseen))
        if method.base is None:
            own = dataclasses.replace(own, tuning=tuning)
    if method.base is not None:
        named = settings.method(method.base, blank.data.task)
        base = _fit_spec(named, beneath, settings, scored=unseen, tuning=tuning)
        if not method.own_fit():
            for name in method.options("fit"):
                raise BrokenPlugin(
                    f"{where}.{name}: nothing reads it, as '{method.name}' borrows the fit of '{method.base}'. Mark it "
                    "with Predict(...)."
                )
            with _plugin(method, "check_fit"):
                method.check_fit(base)
            return base
        with _plugin(method, "bases"):
            bases = _checked_bases(method.bases(base), base, f"{where}.bases")
    fit = dataclasses.replace(
        own, method=method.name, version=method.version, options=method.options("fit"), bases=bases
    )
    with _plugin(method, "check_fit"):
        method.check_fit(fit)
    return fit


def _checked_bases(found: Any, base: FitSpec, where: str) -> tuple[FitSpec, ...]:
    """The result of a method's ``bases``, checked: a few fits that have seen no more than ``base``."""
    if not isinstance(found, tuple | list) or not found or not all(isinstance(fit, FitSpec) for fit in found):
        raise BrokenPlugin(f"{where} returned {shown(found)}: return a tuple of one or more FitSpecs.")
    if len(found) > MOST_BASES:
        raise ValueError(f"{where} asks for {len(found)} fits to start from: {MOST_BASES} is the most.")
    if any(fit.data != base.data or fit.reserved < base.holdout for fit in found):
        raise BrokenPlugin(
            f"{where} returned fits on other data, or with a smaller holdout, than the one it was given."
        )
    return tuple(found)


@contextlib.contextmanager
def _plugin(method: Method, hook: str) -> Iterator[None]:
    """Turn an unexpected exception in a method's hook into a sentence that names the hook."""
    try:
        yield
    except (ValueError, BrokenPlugin):
        raise
    except (Exception, SystemExit) as error:  # of any kind: the hook is its author's code
        if type(error) is LookupError:
            raise
        raise BrokenPlugin(f"{type(method).__qualname__}.{hook} raised {one_line(error)}: fix it.") from error


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
                f"{family.label}: it failed {count} times and is not tried again. Run `bench logs {family.key}`, fix "
                "the cause, and use --retry-failed."
            )
        elif undone:
            found.append(family)
    return found, given_up


def fits_of(runs: Iterable[RunSpec]) -> dict[str, FitSpec]:
    """Every distinct fit that some runs need, by key, with those that it starts from."""
    found: dict[str, FitSpec] = {}

    def visit(fit: FitSpec) -> None:
        if key(fit) not in found:
            found[key(fit)] = fit
            for base in fit.bases:
                visit(base)

    for run in runs:
        visit(run.fit)
    return found


def count_fits(runs: Sequence[RunSpec]) -> dict[str, int]:
    """The number of distinct fits per method that a list of runs needs."""
    counts: dict[str, int] = {}
    for fit in fits_of(runs).values():
        counts[fit.method] = counts.get(fit.method, 0) + 1
    return counts
