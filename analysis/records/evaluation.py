"""One checked evaluation: what every table and figure is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from analysis.records.facts import RunSummary
from bench.specs import RunSpec


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A stored evaluation whose names, facts and metrics were found to be sound.

    Attributes:
        key: its folder's name.
        spec: what was run.
        folder: ``evals/<key>`` in the store.
        settings: canonical JSON of all that defines the run except its seed.
        metrics: name to value; fractions, not percentages; NLL in nats.
        facts: what it took.
    """

    key: str
    spec: RunSpec
    folder: Path
    settings: str
    metrics: Mapping[str, float]
    facts: RunSummary

    @property
    def seed(self) -> int:
        """The seed of its fit."""
        return self.spec.fit.seed
