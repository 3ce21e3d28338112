"""Stored records, checked and grouped."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from analysis.records.groups import Runs, group
from bench.store.records import RunRecord, read_records

NEEDED = (
    "draws", "partial_data", "examples.scored", "seconds.predict", "peak_memory_mib.host", "fit.key", "fit.steps",
    "fit.seconds.train", "fit.seconds.posterior", "fit.peak_memory_mib.host", "fit.warnings", "provenance.commit",
    "provenance.dirty", "provenance.device", "provenance.device_type", "provenance.threads", "provenance.time",
    "provenance.versions",
)  # fmt: skip


def load(runs: Path) -> Runs:
    """The records under ``runs/evals``. Each damaged one is named on stderr and left out.

    Raises:
        ValueError: there is no result to show.
    """
    records, damaged = read_records(runs)
    complaints = {record.key: complaint(record) for record in records}
    excluded = (*damaged, *(sentence for sentence in complaints.values() if sentence))
    for sentence in excluded:
        print(f"left out: {sentence}", file=sys.stderr)
    good = [record for record in records if complaints[record.key] is None]
    results = group(record for record in good if record.spec.purpose == "result")
    if not results:
        raise ValueError(
            f"{runs} holds no {'undamaged ' if excluded else ''}result: "
            f"run `bench grid GRID.toml --runs {runs}` first, or name another folder with --runs."
        )
    sweeps = group(record for record in good if record.spec.purpose == "sweep")
    tunes = group(record for record in good if record.spec.purpose == "tune")
    return Runs(runs, results, sweeps, tunes, excluded)


def complaint(record: RunRecord) -> str | None:
    """Why a record cannot be used, naming it; None when it can."""
    file = record.folder / "facts.json"
    for name, value in record.metrics.items():
        if not math.isfinite(value):
            return f"{file} says {name} is {value}: delete that folder and run the grid again."
    for path in NEEDED:
        inner: Any = record.facts
        for part in path.split("."):
            if not isinstance(inner, dict) or part not in inner:
                return f"{file} lacks {path}: delete that folder and run the grid again."
            inner = inner[part]
    return None
