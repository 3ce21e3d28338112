"""Cost of a method: seconds, forward passes and memory, and each relative to the baseline.

The cost of a posterior includes that of every fit it was made from (the base of a Laplace approximation, the members
of an ensemble): seconds and passes add up, memory is the largest peak. Mid-run evaluation is not counted. A pass is one
example passed forward once, with or without a backward pass. Results of different machines are never averaged or
compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from analysis.records.facts import FitSummary, RunSummary
from analysis.records.groups import Group, Section
from analysis.records.order import row_order
from analysis.records.published import task_order
from analysis.statistics.study import Study

Chain = Sequence[FitSummary]  # the facts of all fits behind a run, its own last


@dataclasses.dataclass(frozen=True)
class Cost:
    """A cost of one run: its title, its decimals, and how it is read from its facts and those of its chain of fits."""

    title: str
    digits: int
    of: Callable[[RunSummary, Chain], float | None]
    needs_chain: bool = True


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum; None when one value is not known."""
    there = [value for value in values if value is not None]
    return sum(there) if len(there) == len(values) else None


def _per_step(_: RunSummary, chain: Chain) -> float | None:
    steps = sum(fit.steps for fit in chain)
    return 1000 * sum(fit.train_seconds for fit in chain) / steps if steps else None


def _peak(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _device(run: RunSummary, chain: Chain) -> float | None:
    return _peak([run.device_mib, *(fit.device_mib for fit in chain)])


COSTS: Mapping[str, Cost] = {
    "step_ms": Cost("training, ms per step", 2, _per_step),
    "train_s": Cost("training, s", 2, lambda _, chain: sum(fit.train_seconds for fit in chain)),
    "posterior_s": Cost("posterior, s", 2, lambda _, chain: sum(fit.posterior_seconds for fit in chain)),
    "predict_s": Cost("prediction, s", 2, lambda run, _: run.predict_seconds, needs_chain=False),
    "fit_passes": Cost("passes to fit", 0, lambda _, chain: _sum([fit.passes for fit in chain])),
    "predict_passes": Cost("passes to predict", 0, lambda run, _: run.passes, needs_chain=False),
    "host_mib": Cost("host memory, MiB", 0, lambda run, chain: _peak([run.host_mib, *(fit.host_mib for fit in chain)])),
    "device_mib": Cost("device memory, MiB", 0, _device),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """The costs of a group, and each over the baseline's where both come from one machine and that is not 0."""

    group: Group
    costs: Mapping[str, float]
    relative: Mapping[str, float]

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines they were measured on."""
        return self.group.origin.machines


def measured(study: Study, group: Group) -> dict[str, float]:
    """The costs of a group, means over its seeds: those that the facts of every run, and of its fits, tell."""
    chains = [study.runs.fits.chain(record.spec.fit, record.facts) for record in group.records]
    found = {}
    for name, cost in COSTS.items():
        values = [
            None if chain is None and cost.needs_chain else cost.of(record.facts, chain or ())
            for record, chain in zip(group.records, chains, strict=True)
        ]
        there = [value for value in values if value is not None]
        if len(there) == len(values):
            found[name] = fmean(there)
    return found


def cost_rows(study: Study, section: Section) -> list[Row]:
    """A row per task and method of a section; no costs where a group mixes machines."""
    ordered = sorted(study.of(section), key=lambda g: (*_tasks(g), row_order(g, study.baseline)))
    costs = {g.hash: measured(study, g) if len(g.origin.machines) == 1 else {} for g in ordered}
    bases: dict[str, list[Group]] = {}
    for group in ordered:
        if group.spec.method == study.baseline:
            bases.setdefault(group.task, []).append(group)
    found = []
    for group in ordered:
        base = bases.get(group.task, [])
        alike = len(base) == 1 and base[0].origin.machines == group.origin.machines
        theirs = costs[base[0].hash] if alike else {}
        relative = {name: value / theirs[name] for name, value in costs[group.hash].items() if theirs.get(name)}
        found.append(Row(group, costs[group.hash], relative))
    return found


def _tasks(group: Group) -> tuple[object, ...]:
    return task_order(group.spec.fit.data.task), task_order(group.spec.data.task)
