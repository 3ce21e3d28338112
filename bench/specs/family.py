"""Families: the unit of work that launchers hand to processes."""

from __future__ import annotations

import dataclasses

from bench.specs.keys import key
from bench.specs.spec import FitSpec, RunSpec


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
        """The name shown on the screen."""
        variant = self.runs[0].variant
        return " ".join(filter(None, [self.root.method, self.root.data.task, f"seed {self.root.seed}", variant]))
