"""What a method costs: seconds, forward passes and memory, and each relative to the baseline.

The cost of a posterior includes that of every fit it was made from (the base of a Laplace approximation, the members
of an ensemble): seconds and passes add up, memory is the largest peak. Mid-run evaluation is not counted. A pass is one
example passed forward once, with or without a backward pass. Unlike machines are never averaged or compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from analysis.records.fits import chain_facts
from analysis.records.groups import Group, Runs
from analysis.records.order import BASELINE, row_order
from analysis.records.published import task_order
from analysis.tables.files import csv_text, number
from analysis.tables.markdown import GAP, table
from bench.store.records import RunRecord

Chain = Sequence[Mapping[str, Any]]  # the facts of all fits behind a run, its own last
MIXED = "mixed machines"
COLUMNS = ("protocol", "model", "variant", "task", "method", "cost", "mean", "relative", "n_seeds", "machine")


@dataclasses.dataclass(frozen=True)
class Cost:
    """A cost of one run: what it is called, its decimals, and how it is read from its record and chain of fits."""

    title: str
    digits: int
    of: Callable[[RunRecord, Chain], float | None]


def _sum(chain: Chain, *path: str) -> float | None:
    """The sum over a chain of a number in its facts; None when one fit does not say."""
    values = [_at(facts, path) for facts in chain]
    there = [value for value in values if value is not None]
    return sum(there) if len(there) == len(values) else None


def _at(facts: Mapping[str, Any], path: Sequence[str]) -> float | None:
    inner: Any = facts
    for name in path:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return None if inner is None else float(inner)


def _per_step(_: RunRecord, chain: Chain) -> float | None:
    steps = _sum(chain, "steps")
    seconds = _sum(chain, "seconds", "train")
    return 1000 * seconds / steps if seconds is not None and steps else None


def _peak(place: str) -> Callable[[RunRecord, Chain], float | None]:
    def peak(record: RunRecord, chain: Chain) -> float | None:
        peaks = [_at(facts, ("peak_memory_mib", place)) for facts in (*chain, record.facts)]
        return max((value for value in peaks if value is not None), default=None)

    return peak


COSTS = {
    "step_ms": Cost("training, ms per step", 2, _per_step),
    "train_s": Cost("training, s", 2, lambda _, chain: _sum(chain, "seconds", "train")),
    "posterior_s": Cost("posterior, s", 2, lambda _, chain: _sum(chain, "seconds", "posterior")),
    "predict_s": Cost("prediction, s", 2, lambda record, _: float(record.facts["seconds"]["predict"])),
    "fit_passes": Cost("passes to fit", 0, lambda _, chain: _sum(chain, "forward_passes")),
    "predict_passes": Cost("passes to predict", 0, lambda record, _: _at(record.facts, ("forward_passes",))),
    "host_mib": Cost("host memory, MiB", 0, _peak("host")),
    "device_mib": Cost("device memory, MiB", 0, _peak("device")),
}
NEEDS_CHAIN = ("step_ms", "train_s", "posterior_s", "fit_passes", "host_mib", "device_mib")


def measured(runs: Runs, group: Group) -> dict[str, float]:
    """The costs of a group, means over its seeds: those that every run's facts, and those of its fits, say."""
    chains = [chain_facts(runs.folder, record) for record in group.records]
    found = {}
    for name, cost in COSTS.items():
        values = [
            None if chain is None and name in NEEDS_CHAIN else cost.of(record, chain or ())
            for record, chain in zip(group.records, chains, strict=True)
        ]
        there = [value for value in values if value is not None]
        if len(there) == len(values):
            found[name] = fmean(there)
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """The costs of a group, and each over the baseline's where both come from one machine and that is not 0."""

    group: Group
    machines: tuple[str, ...]
    costs: Mapping[str, float]
    relative: Mapping[str, float]


def rows(runs: Runs, groups: Sequence[Group], baseline: str = BASELINE) -> list[Row]:
    """A row per task and method of one section; no costs where a group mixes machines."""
    ordered = sorted(groups, key=lambda g: (_tasks(g), row_order(g, baseline)))
    machines = {id(group): group.origin.machines for group in ordered}
    costs = {id(group): measured(runs, group) if len(machines[id(group)]) == 1 else {} for group in ordered}
    found = []
    for group in ordered:
        bases = [other for other in ordered if other.task == group.task and other.spec.method == baseline]
        base = costs[id(bases[0])] if len(bases) == 1 and machines[id(bases[0])] == machines[id(group)] else {}
        relative = {name: value / base[name] for name, value in costs[id(group)].items() if base.get(name)}
        found.append(Row(group, machines[id(group)], costs[id(group)], relative))
    return found


def _tasks(group: Group) -> tuple[object, ...]:
    return task_order(group.spec.fit.data.task), task_order(group.spec.data.task)


def costs(runs: Runs, baseline: str = BASELINE) -> str:
    """Markdown: a table per section; in parentheses how many times the baseline's cost it is."""
    parts = []
    for section in runs.sections:
        found = rows(runs, runs.of(section), baseline)
        shown = [name for name in COSTS if any(name in row.costs for row in found)]
        lines = [
            [row.group.task, row.group.name, *(_cell(row, name) for name in shown), _draws(row.group), _machine(row)]
            for row in found
        ]
        header = ["task", "method", *(COSTS[name].title for name in shown), "draws", "machine"]
        parts.append(f"### {section.title}\n\n{table(header, lines)}")
    return "\n".join(parts)


def _cell(row: Row, name: str) -> str:
    if name not in row.costs:
        return GAP
    text = f"{row.costs[name]:.{COSTS[name].digits}f}"
    return f"{text} (×{row.relative[name]:.2f})" if name in row.relative else text


def _machine(row: Row) -> str:
    return row.machines[0] if len(row.machines) == 1 else f"{MIXED}: {', '.join(row.machines)}"


def _draws(group: Group) -> str:
    return ", ".join(dict.fromkeys(str(record.facts["draws"]) for record in group.records))


def costs_csv(runs: Runs, baseline: str = BASELINE) -> str:
    """The same as CSV: a row per task, method and cost that is known."""
    lines = []
    for section in runs.sections:
        for row in rows(runs, runs.of(section), baseline):
            for name, value in row.costs.items():
                where = (*section, row.group.task, row.group.name, name)
                seeds = str(len(row.group.records))
                lines.append((*where, number(value), number(row.relative.get(name)), seeds, row.machines[0]))
    return csv_text(COLUMNS, lines)
