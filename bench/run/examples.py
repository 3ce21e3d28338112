"""Which examples a fit trains on, tunes on and watches, and which an evaluation scores: disjoint by construction.

The training split is ranked by the run's hold-out stream. Its first share ``holdout`` is set aside for being scored;
a fit that tunes leaves a further share for that, where the protocol names no split for it; the rest is trained on.
"""

from __future__ import annotations

import dataclasses

from bench.data.identity import load_planned
from bench.data.protocol import HOLDOUT, splits_for
from bench.data.splits import DataSource, Split, split_holdout
from bench.specs import DataSpec, FitSpec, RunSpec, seed_for
from bench.task import Example, get_task

Examples = tuple[Example, ...]


@dataclasses.dataclass(frozen=True)
class Data:
    """The examples of fits and evaluations, read from ``source``."""

    source: DataSource

    def split(self, data: DataSpec, name: str) -> Split:
        """A split of the data that a spec names."""
        return load_planned(data, name, get_task(data.task), self.source)

    def trained(self, fit: FitSpec) -> Examples:
        """The examples that a fit trains on."""
        return self._ranked(fit, fit.reserved)[0]

    def tuning(self, fit: FitSpec, protocol: str) -> Examples:
        """The examples that a fit tunes on: neither it nor its base trains on them, and they are not scored.

        They are a part of the training split, or the split that the protocol leaves for tuning.

        Raises:
            ValueError: the protocol leaves none. (The plan does not make such a spec.)
        """
        unseen = fit.reserved
        if unseen > fit.holdout:
            scored = {example.id for example in self._ranked(fit, fit.holdout)[1]}
            return tuple(example for example in self._ranked(fit, unseen)[1] if example.id not in scored)
        task = get_task(fit.data.task)
        split = splits_for(protocol, task).tuning
        if split not in task.rows:
            raise ValueError(f"Protocol '{protocol}' leaves no examples of '{task.name}' for {fit.method} to tune on.")
        return self.split(fit.data, split).examples

    def watched(self, fit: FitSpec, protocol: str) -> Examples:
        """The examples that mid-run evaluation looks at: those set aside, else the tuning split, else the reported."""
        task = get_task(fit.data.task)
        if held := self._ranked(fit, fit.reserved)[1]:
            return held
        splits = splits_for(protocol, task)
        return self.split(fit.data, splits.tuning if splits.tuning in task.rows else splits.reported).examples

    def scored(self, run: RunSpec) -> tuple[Examples, Split]:
        """The examples that an evaluation scores, and the split they are from."""
        if run.split != HOLDOUT:
            split = self.split(run.data, run.split)
            return split.examples, split
        return self._ranked(run.fit, run.fit.holdout)[1], self.split(run.data, "train")

    def _ranked(self, fit: FitSpec, share: float) -> tuple[Examples, Examples]:
        """(the rest, the first share) of the training split."""
        return split_holdout(self.split(fit.data, "train").examples, share, seed_for(fit, "holdout"))
