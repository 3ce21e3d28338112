"""``bench plan``: what a grid needs before it runs: fits, evaluations, passes, time, memory and disk.

Counts come from the specs and the store. Time, memory and disk come from a probe (:mod:`bench.run.probe`) that trains
and predicts at two small sizes: each cost is taken to be linear in its size, ``fixed + slope * size``. Fits and
evaluations that differ in seed or in the value of a real hyperparameter cost the same, so one of each kind is probed.
Families are handed to workers in their order, each to the first that is free, as the launcher does.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from bench.data.protocol import HOLDOUT
from bench.plan.runs import fits_of
from bench.process.progress import clock_text
from bench.process.text import counted
from bench.run.probe import Costs, FitCost, fit_kind, run_kind
from bench.specs import Family, FitSpec, RunSpec, key
from bench.store.store import Store, is_whole
from bench.task import get_task


@dataclasses.dataclass(frozen=True)
class Need:
    """The work that is left, and the results that the store holds already.

    Attributes:
        families: all families of the grid; ``open_families`` are not complete.
        fits: the missing fits, each once.
        runs: the missing evaluations.
        cached_fits, cached_runs: how many the store holds.
    """

    families: int
    open_families: int
    fits: tuple[FitSpec, ...]
    runs: tuple[RunSpec, ...]
    cached_fits: int
    cached_runs: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the fits that train at most; methods that only post-process take none."""
        return sum(fit.train.steps for fit in self.fits if not fit.bases)


def needed(families: Iterable[Family], store: Store) -> Need:
    """Compare a grid's families with the store. A fit is needed if an evaluation that is missing hangs from it."""
    wanted = list(families)
    done = store.evaluations()
    runs = [run for family in wanted for run in family.runs]
    missing = tuple(run for run in runs if key(run) not in done)
    everything, fits = fits_of(runs), fits_of(missing)
    absent = tuple(fit for fit in fits.values() if not is_whole(store.folder(fit)))
    return Need(
        families=len(wanted),
        open_families=sum(any(key(run) not in done for run in family.runs) for family in wanted),
        fits=absent,
        runs=missing,
        cached_fits=sum(is_whole(store.folder(fit)) for fit in everything.values()),
        cached_runs=len(runs) - len(missing),
    )


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Predicted cost of a need.

    Attributes:
        families: seconds of each family, in their order.
        start: seconds until a worker is ready.
        seconds_by_method: the part of each method's fits and evaluations.
        memory_mib: the most that a worker uses.
        disk_bytes: what the store grows by.
    """

    families: tuple[float, ...]
    start: float
    seconds_by_method: Mapping[str, float]
    memory_mib: float
    disk_bytes: float

    @property
    def seconds(self) -> float:
        """The time of one worker that computes everything."""
        return sum(self.families)

    def wall_seconds(self, workers: int) -> float:
        """The time of several workers."""
        free = [self.start] * workers
        for seconds in self.families:
            heapq.heapreplace(free, free[0] + seconds)
        return max(free)


def forecast(need: Need, costs: Costs, eval_every: int = 0) -> Forecast:
    """The cost of a need, from what was probed."""
    by_method: defaultdict[str, float] = defaultdict(float)
    open_fits = {key(fit) for fit in need.fits}
    families: defaultdict[str, list[RunSpec]] = defaultdict(list)
    for run in need.runs:
        families[key(run.fit.root)].append(run)
    totals, size = [], 0.0
    for runs in families.values():
        total = 0.0
        for name, fit in fits_of(runs).items():
            if name in open_fits:
                open_fits.remove(name)
                seconds = fit_seconds(fit, costs.fits[fit_kind(fit)], eval_every)
                by_method[fit.method] += seconds
                total += seconds
                size += costs.fits[fit_kind(fit)].bytes
        for run in runs:
            each, rows = costs.runs[run_kind(run)], scored_rows(run)
            by_method[run.method] += each.seconds.at(rows)
            total += each.seconds.at(rows)
            size += each.bytes.at(rows)
        totals.append(total)
    return Forecast(tuple(totals), costs.start, dict(by_method), costs.memory_mib, size)


def fit_seconds(fit: FitSpec, cost: FitCost, eval_every: int) -> float:
    """Seconds of a fit, mid-run evaluations included: before the first step, every so many, and after the last."""
    seconds = cost.after.at(1) + cost.around.at(1)
    if cost.trains:
        watches = 1 + -(-fit.train.steps // eval_every) if eval_every else 0
        seconds += cost.step.at(fit.train.steps) + watches * cost.watch.at(1)
    return seconds


def scored_rows(run: RunSpec) -> int:
    """Official number of examples that an evaluation scores."""
    task = get_task(run.data.task)
    return round(task.rows["train"] * run.fit.holdout) if run.split == HOLDOUT else task.rows[run.split]


def describe(name: str, need: Need, predicted: Forecast | None, workers: int) -> Iterator[str]:
    """The lines that `bench plan` prints."""
    evaluations = counted(need.cached_runs + len(need.runs), "evaluation")
    yield f"{name}: {counted(need.families, 'family', 'families')}, {evaluations}"
    yield f"  stored      {counted(need.cached_fits, 'fit')}, {counted(need.cached_runs, 'evaluation')}"
    fits = ", ".join(f"{count} {method}" for method, count in _by_method(need.fits).items())
    families = counted(need.open_families, "family", "families")
    yield f"  to compute  {families}: {counted(len(need.fits), 'fit')}{f' ({fits})' if fits else ''}"
    evaluations = counted(len(need.runs), "evaluation")
    yield f"              {evaluations} of {sum(map(scored_rows, need.runs))} examples in all"
    if predicted is None:
        yield f"  training    {need.steps} optimizer steps at most"
        return
    yield f"  time        {clock_text(predicted.wall_seconds(workers))} with {workers} worker{'s' * (workers > 1)}"
    yield f"  memory      {predicted.memory_mib:.0f} MiB per worker"
    yield f"  disk        {predicted.disk_bytes / 2**20:.1f} MiB"
    yield "  time by method, of one worker"
    for method, seconds in sorted(predicted.seconds_by_method.items(), key=lambda item: -item[1]):
        yield f"    {method:20} {clock_text(seconds)}"


def _by_method(fits: Iterable[FitSpec]) -> Counter[str]:
    return Counter(fit.method for fit in fits)
