"""A study: the records and measurements of a store, and the choices of its reader. Tables and figures take one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from analysis.records.groups import Group, Runs, Section
from analysis.records.load import load
from analysis.records.order import BASELINE
from analysis.statistics.measured import Measured, Measurements
from bench.store.display import main_variant_of

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Study:
    """Records, measurements and choices.

    Attributes:
        runs: the records.
        measured: their predictions in brief, by key.
        baseline: the method that differences and relative costs are taken to.
        main: the variant of the settings that is shown first; None leaves the choice to :attr:`main_variant`. A
            grid that marks one (``main = true``) notes it in the store.
    """

    runs: Runs
    measured: Mapping[str, Measured]
    baseline: str = BASELINE
    main: str | None = None
    _known: dict[Callable[[Study], Any], Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def once(self, compute: Callable[[Study], T]) -> T:
        """The result of a computation, which is made at the first call only: several tables and figures share some."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        result: T = self._known[compute]
        return result

    @cached_property
    def main_variant(self) -> str:
        """The variant that is shown first: the chosen one, else the one with most results."""
        if self.main is not None:
            return self.main
        counts = Counter(group.spec.variant for group in self.runs.results)
        return min(counts, key=lambda variant: (-counts[variant], variant))

    @cached_property
    def sections(self) -> list[Section]:
        """The sections that have results: those of the main variant first, else sorted."""
        return sorted(self.runs.sections, key=lambda section: (section.variant != self.main_variant, section))

    def of(self, section: Section) -> list[Group]:
        """The results of a section."""
        return self.runs.of(section)


def study(folder: Path, baseline: str | None = None, main: str | None = None) -> Study:
    """The study of a store.

    Raises:
        ValueError: there is no result in it, none of the chosen baseline, or none of the chosen variant.
    """
    measured = Measurements()
    runs = load(folder, measured.visitor)
    methods = {group.spec.method for group in runs.results}
    variants = {group.spec.variant for group in runs.results}
    if baseline is not None and baseline not in methods:
        have = ", ".join(sorted(methods))
        raise ValueError(f"There is no result of the baseline '{baseline}' in {folder}. It has {have}.")
    if main is not None and main not in variants:
        have = ", ".join(f"'{name}'" for name in sorted(variants))
        raise ValueError(f"There is no result of the variant '{main}' in {folder}. It has {have}.")
    noted = main_variant_of(folder)
    if main is None and noted in variants:
        main = noted
    return Study(runs, measured, baseline or BASELINE, main)
