"""What of a grid is done, under way, failed or missing. The store is the only truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.claim import read_claims
from bench.plan import count_fits
from bench.specs import FitSpec, RunSpec, key
from bench.store import Store


def grid_status(grid: Any, runs: Path) -> tuple[list[str], bool]:
    """(lines to print, whether everything is done)."""
    store = Store(runs)
    lines, counts = [], {"done": 0, "running": 0, "failed": 0, "missing": 0}
    planned = []
    claims = read_claims(runs / "claims")
    for family in grid.families():
        busy = claims.get(family.key, {}).get("alive", False)
        lines.append(f"{family.key}  {family.label}: fit {_state(store, family.root, busy)}")
        for run in family.runs:
            state = _state(store, run, busy)
            counts[state] += 1
            knobs = ", ".join(f"{name}={value}" for name, value in run.options.items())
            lines.append(f"    {key(run)}  {state:8} {run.method}" + (f" ({knobs})" if knobs else ""))
            planned.append(run)
    fits = ", ".join(f"{count} {method}" for method, count in count_fits(planned).items())
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines.append(f"{len(planned)} evaluations: {summary}. Fits needed in all: {fits}.")
    return lines, counts["done"] == len(planned)


def _state(store: Store, spec: FitSpec | RunSpec, busy: bool) -> str:
    if store.has(spec):
        return "done"
    if busy:
        return "running"
    return "failed" if store.failures(spec) else "missing"
