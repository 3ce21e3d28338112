"""What a method costs: seconds and memory, from the facts of its runs. Refuses to average over unlike machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.fits import chain_facts, fit_facts, machine
from analysis.labels import BASELINE, row_order
from analysis.load import Group, Runs, fits
from analysis.markdown import GAP, table

Chain = Sequence[Mapping[str, Any]]  # the facts of all fits behind a run


def _train(chain: Chain) -> float:
    return sum(float(facts["seconds"]["train"]) for facts in chain)


def _steps(chain: Chain) -> int:
    return sum(int(facts["steps"]) for facts in chain)


def _per_step(chain: Chain) -> float | None:
    return 1000 * _train(chain) / _steps(chain) if _steps(chain) else None


def _posterior(chain: Chain) -> float:
    return sum(float(facts["seconds"]["posterior"]) for facts in chain)


FITTING: Mapping[str, Callable[[Chain], float | None]] = {
    "training, ms per step": _per_step,
    "training, s": _train,
    "posterior, s": _posterior,
}


def costs(runs: Runs, baseline: str = BASELINE) -> str:
    """Markdown: seconds and peak memory of each method and task, mean over seeds; a base's training is counted in."""
    parts = []
    for section in runs.sections:
        groups = sorted(runs.of(section), key=lambda g: (g.task, *row_order(g, baseline)))
        rows = [[group.task, group.name, *_cells(runs.folder, group)] for group in groups]
        header = ["task", "method", *FITTING, "prediction, s", "draws", "host memory, MiB", "device memory, MiB"]
        parts.append(f"### {section.title}\n\n{table(header, rows)}")
    return "\n".join(parts)


def machines(runs: Path, group: Group) -> set[str]:
    """The machines on which a group was fitted and evaluated, as far as the store knows."""
    found = {machine(record.facts["provenance"]) for record in group.records}
    for record in group.records:
        for fit in fits(record.spec.fit):
            facts = fit_facts(runs, fit)
            found |= {machine(facts["provenance"])} if facts and not group.reference else set()
    return found


def _cells(runs: Path, group: Group) -> list[str]:
    if len(machines(runs, group)) > 1:
        return ["mixed machines", *[GAP] * (len(FITTING) + 3)]
    chains = [chain for record in group.records if (chain := chain_facts(runs, record)) is not None]
    whole = len(chains) == len(group.records)
    fitting = [_mean([cost(chain) for chain in chains]) if whole else GAP for cost in FITTING.values()]
    predict = _mean([record.facts["seconds"]["predict"] for record in group.records])
    draws = _mean([record.facts["draws"] for record in group.records], digits=0)
    memory = [_mean([_peak(record.facts, place) for record in group.records], digits=0) for place in ("host", "device")]
    return [*fitting, predict, draws, *memory]


def _peak(facts: Mapping[str, Any], place: str) -> float | None:
    """The larger of the peaks in the run's own fit and in prediction."""
    peaks = (facts["peak_memory_mib"].get(place), facts["fit"]["peak_memory_mib"].get(place))
    return max((peak for peak in peaks if peak is not None), default=None)


def _mean(values: Sequence[float | None], digits: int = 2) -> str:
    there = [value for value in values if value is not None]
    return f"{fmean(there):.{digits}f}" if there and len(there) == len(values) else GAP
