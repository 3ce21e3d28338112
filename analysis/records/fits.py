"""What the store knows of the fits behind a run: their facts and their traces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.specs import FitSpec, key
from bench.store.records import RunRecord


def fits(spec: FitSpec) -> list[FitSpec]:
    """A fit and all that it was made from, its bases first, each once."""
    found: list[FitSpec] = []
    for fit in (*(inner for base in spec.bases for inner in fits(base)), spec):
        if fit not in found:
            found.append(fit)
    return found


def fit_facts(runs: Path, fit: FitSpec) -> Mapping[str, Any] | None:
    """The facts of a stored fit; None when it is not there or cannot be read."""
    try:
        facts: Mapping[str, Any] = json.loads((runs / "fits" / key(fit) / "facts.json").read_text())
        return facts
    except (OSError, ValueError):
        return None


def chain_facts(runs: Path, record: RunRecord) -> list[Mapping[str, Any]] | None:
    """The facts of all fits that a run's posterior was made from, its own last; None when one is missing.

    The record holds those of its own fit; those of its bases are read from ``runs/fits``.
    """
    bases = [fit_facts(runs, fit) for fit in fits(record.spec.fit)[:-1]]
    found = [facts for facts in bases if facts is not None]
    return [*found, record.facts["fit"]] if len(found) == len(bases) else None


def trace(runs: Path, fit: FitSpec) -> list[Mapping[str, float]]:
    """The rows of a fit's ``trace.jsonl``; none when it is not there or cannot be read."""
    try:
        text = (runs / "fits" / key(fit) / "trace.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


def machine(provenance: Mapping[str, Any]) -> str:
    """What a wall-clock figure depends on: the device and, where it is a CPU, the number of threads."""
    if provenance["device_type"] == "cpu":
        threads = provenance["threads"]
        return f"{provenance['device']} ({threads} thread{'s' if threads != 1 else ''})"
    return str(provenance["device"])
