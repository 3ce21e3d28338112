"""Before the first family: what is known to stop the work is told once, in a sentence, and nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.data.identity import check_rows
from bench.data.protocol import HOLDOUT
from bench.data.splits import DataSource
from bench.method import get_method
from bench.model.outline import check_outline
from bench.plan.runs import fits_of
from bench.specs import DataSpec, Family, ModelSpec, RunSpec
from bench.store.store import Store
from bench.task import get_task


def preflight(families: Iterable[Family], store: Store, source: DataSource, model_path: Path | None) -> None:
    """Check the store, the rows and the base that the missing runs of some families need.

    Raises:
        LookupError, OSError, ValueError: one of them cannot be used; the message names it and the fix.
    """
    store.check_writable()
    runs = [run for family in families for run in family.runs if run not in store.complete(family.runs)]
    check_rows(dict.fromkeys(_rows(runs, store)), source)
    answers: dict[ModelSpec, dict[tuple[str, ...], None]] = {}
    for run in runs:
        fits = [] if store.has(run.fit) else fits_of([run]).values()
        if any(get_method(name).uses_model for name in (run.method, *(fit.method for fit in fits))):
            answers.setdefault(run.fit.model, {})[get_task(run.data.task).answers] = None
    for model, words in answers.items():
        check_outline(model, model_path, words)


def _rows(runs: Iterable[RunSpec], store: Store) -> Iterable[tuple[DataSpec, str]]:
    """The splits that runs are scored on, and those that fits which are not stored read."""
    for run in runs:
        yield run.data, "train" if run.split == HOLDOUT else run.split
        for fit in () if store.has(run.fit) else fits_of([run]).values():
            yield fit.data, "train"
            if get_method(fit.method).tunes and fit.reserved == fit.holdout:
                yield fit.data, "validation"
