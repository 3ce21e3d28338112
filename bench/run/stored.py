"""A stored result by the start of its key: its spec, its posterior, and the method that predicts with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bench.data.given import PREFIX
from bench.method import Method, get_method
from bench.posterior import Posterior
from bench.specs import FitSpec, RunSpec, digest, key, seed_for
from bench.store.records import read_spec
from bench.store.store import Store
from bench.task import get_task


@dataclasses.dataclass(frozen=True)
class Result:
    """A fit or an evaluation of the store.

    Attributes:
        fit: the fit, or that of the evaluation.
        run: the evaluation; None if the key is a fit's.
    """

    store: Store
    fit: FitSpec
    run: RunSpec | None

    @property
    def key(self) -> str:
        """The key of the evaluation, or of the fit."""
        return key(self.run or self.fit)

    @property
    def method(self) -> Method:
        """The method that predicts: the evaluation's, or the fit's own, with its stored options."""
        if self.run is None:
            return get_method(self.fit.method).make(self.fit.options)
        fit_options = self.fit.options if self.fit.method == self.run.method else {}
        return get_method(self.run.method).make({**fit_options, **self.run.options})

    @property
    def posterior(self) -> Posterior:
        """The stored posterior of the fit.

        Raises:
            DamagedRecord: it is not what was stored.
        """
        get_method(self.fit.method)  # defines the posterior's class
        return self.store.posterior(self.fit)

    @property
    def seed(self) -> int:
        """The seed of draws: that of the evaluation, so that it is repeated; of a fit, that of one on its own task."""
        if self.run is not None:
            return seed_for(self.run, "predict")
        return digest("predict", self.fit.seed, self.fit.data.task, self.fit.data.task)

    @property
    def noise_seed(self) -> int:
        """The seed of what the model's own layers draw, such as dropout masks."""
        return self.seed if self.run is None else seed_for(self.run, "noise of layers")


def open_result(runs: Path, prefix: str) -> Result:
    """The result whose key starts with ``prefix``.

    Raises:
        LookupError: there is none, or more than one, or it is of a task or method that is not known here.
        DamagedRecord: its spec cannot be read, or is not the one that was stored.
    """
    store = Store(runs)
    folder = store.find(prefix)
    if folder.parent.name == "fits":
        found = Result(store, read_spec(folder, FitSpec), None)
    else:
        run = read_spec(folder, RunSpec)
        found = Result(store, run.fit, run)
    try:
        if not found.fit.data.task.startswith(PREFIX):  # examples given in Python, whose answers the caller knows
            get_task(found.fit.data.task)
        get_method(found.fit.method if found.run is None else found.run.method)
    except LookupError as error:
        raise LookupError(
            f"{error.args[0]} If that is one of yours, name its module or task file with --plugin, or import it first."
        ) from None
    return found
