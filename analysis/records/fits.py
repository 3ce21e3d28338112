"""The fits behind a run: their specs, what the store knows of them, and their training traces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.records.facts import FitSummary, Malformed, RunSummary, fit_facts
from analysis.records.names import printable
from bench.process.reading import regular
from bench.specs import FitSpec, key
from bench.store.facts import FitFacts
from bench.store.records import DamagedRecord, read_facts
from bench.store.schema import finite

TRACE = "/trace"  # ends the names of complaints about traces
TRACED = ("step", "seconds")  # every row of a trace has them
MEASURED = (*TRACED, "accuracy", "nll")  # columns that figures read


def chain(spec: FitSpec) -> list[FitSpec]:
    """A fit and all that it was made from, its bases first, each once."""
    found: list[FitSpec] = []
    for fit in (*(inner for base in spec.bases for inner in chain(base)), spec):
        if fit not in found:
            found.append(fit)
    return found


class Fits:
    """The stored fits under ``runs/fits``, each read once. What cannot be used is None, and named in ``complaints``."""

    def __init__(self, runs: Path) -> None:
        self.folder = runs / "fits"
        self.complaints: dict[str, str] = {}  # by key
        self._facts: dict[str, FitSummary | None] = {}

    def facts(self, fit: FitSpec) -> FitSummary | None:
        """The facts of a stored fit; None where it is missing or malformed."""
        name = key(fit)
        if name not in self._facts:
            self._facts[name] = self._read(name)
        return self._facts[name]

    def _read(self, name: str) -> FitSummary | None:
        folder = self.folder / name
        try:
            return fit_facts(read_facts(folder, FitFacts))
        except DamagedRecord as error:
            if folder.exists():
                self.complaints[name] = f"costs and origin of a fit: {printable(str(error))}"
            return None

    def chain(self, spec: FitSpec, facts: RunSummary) -> list[FitSummary] | None:
        """The facts of all fits that a run's posterior was made from, its own last; None where one is missing.

        A run's record holds those of its own fit; those of its bases are read from the store.
        """
        bases = [self.facts(fit) for fit in chain(spec)[:-1]]
        found = [known for known in bases if known is not None]
        return [*found, facts.fit] if len(found) == len(bases) else None

    def unread_traces(self) -> list[str]:
        """A sentence on every trace that was asked for and could not be used."""
        return [sentence for name, sentence in self.complaints.items() if name.endswith(TRACE)]

    def trace(self, fit: FitSpec) -> list[Mapping[str, float]]:
        """The rows of a fit's ``trace.jsonl``; empty where it is missing, or not rows of finite numbers."""
        file = self.folder / key(fit) / "trace.jsonl"
        try:
            rows = [json.loads(line) for line in regular(file).read_text().splitlines() if line.strip()]
            for number, row in enumerate(rows, 1):
                if not _is_row(row):
                    raise Malformed(f"line {number} is not a row of finite numbers with {' and '.join(TRACED)}")
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            self.complaints[f"{key(fit)}{TRACE}"] = f"{file} is not used: {printable(str(error))}."
            return []
        return rows


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and all(name in row for name in TRACED)
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and finite(value)
            for value in (row[name] for name in MEASURED if name in row)
        )
    )
