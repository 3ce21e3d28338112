"""Before the first family: what is known to stop the work is told once, in a sentence, and nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.data.identity import check_rows
from bench.data.splits import DataSource, held_out, load_split
from bench.method import get_method
from bench.model.outline import check_outline
from bench.plan.runs import fits_of
from bench.specs import DataSpec, Family, FitSpec, ModelSpec, RunSpec
from bench.store.store import Store
from bench.task import get_task


def preflight(families: Iterable[Family], store: Store, source: DataSource, model_path: Path | None) -> None:
    """Check the store, the rows and the base that the missing runs of some families need.

    Raises:
        LookupError, OSError, ValueError: one of them cannot be used; the message names it and the fix.
    """
    store.check_writable()
    runs = []
    for family in families:
        done = store.complete(family.runs)
        runs += [run for run in family.runs if run not in done]
    check_rows(_rows(runs, store), source)
    for name, share in {(fit.data.task, fit.reserved): None for run in runs for fit in _unfitted(run, store)}:
        if share:
            held_out(len(load_split(get_task(name), "train", source).examples), share)
    answers: dict[ModelSpec, dict[tuple[str, ...], None]] = {}
    for run in runs:
        if any(get_method(name).uses_model for name in (run.method, *(fit.method for fit in _unfitted(run, store)))):
            answers.setdefault(run.fit.model, {})[get_task(run.data.task).answers] = None
    for model, words in answers.items():
        check_outline(model, model_path, words)


def _unfitted(run: RunSpec, store: Store) -> list[FitSpec]:
    """The fits of a run that are not stored."""
    return [fit for fit in fits_of([run]).values() if not store.folder(fit).exists()]


def _rows(runs: Iterable[RunSpec], store: Store) -> Iterable[tuple[DataSpec, str]]:
    """The splits that runs are scored on, and those that fits which are not stored read."""
    for run in runs:
        yield run.data, run.split
        for fit in _unfitted(run, store):
            yield fit.data, "train"
            if get_method(fit.method).tunes and fit.reserved == fit.holdout:
                yield fit.data, "validation"
