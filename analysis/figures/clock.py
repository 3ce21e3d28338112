"""Accuracy and NLL against seconds of training, the evaluation clock stopped: one line per training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.figures.panels import Drawn, few_ticks, line_with_band, looks, panel_figure, scaled
from analysis.records.groups import Group, Section, titled
from analysis.records.labels import distinguish, flatten
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from bench.metrics import METRICS, Metric
from bench.specs import FitSpec, canonical, key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("accuracy", "nll")


@dataclasses.dataclass(frozen=True)
class Training:
    """The mid-run evaluations of trainings that differ in their seed only: step to row, one mapping per seed."""

    fit: FitSpec
    task: str
    traces: tuple[Mapping[float, Mapping[str, float]], ...]
    machines: frozenset[str]

    @property
    def steps(self) -> list[float]:
        """The steps at which every seed was evaluated."""
        return sorted(set.intersection(*(set(rows) for rows in self.traces)))


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """The figure of a section; none where it would mix seconds of different machines."""
    found, notes = alike_held(trainings(study, study.of(section)), study.of(section), study.baseline)
    notes = [*(f"{note} ({section.title})." for note in notes), *study.runs.fits.unread_traces()]
    machines = sorted({name for training in found for name in training.machines})
    if len(machines) > 1:
        notes.append(f"No wall-clock figure for {section.title}: it mixes machines ({', '.join(machines)}).")
    elif not found:
        notes.append(f"No wall-clock figure for {section.title}: no training was evaluated on its way (eval_every).")
    else:
        return [_figure(study, found, f"clock-{section.slug}", section.title, machines[0])], notes
    return [], notes


def trainings(study: Study, groups: Sequence[Group]) -> list[Training]:
    """The root trainings of groups, each once, that have at least two mid-run evaluations in common."""
    roots = {key(r.spec.fit.root): r.spec.fit.root for g in groups for r in g.records if not g.reference}
    alike: dict[str, list[FitSpec]] = {}
    for root in roots.values():
        alike.setdefault(canonical(dataclasses.replace(root, seed=0)), []).append(root)
    found = []
    for fits in alike.values():
        traces = [{row["step"]: row for row in study.runs.fits.trace(fit) if set(SHOWN) <= row.keys()} for fit in fits]
        facts = [known for fit in fits if (known := study.runs.fits.facts(fit)) is not None]
        machines = frozenset[str]().union(*(known.machines for known in facts if known.provenance is not None))
        training = Training(fits[0], fits[0].data.task, tuple(rows for rows in traces if rows), machines)
        if training.traces and machines and len(training.steps) > 1:
            found.append(training)
    return sorted(found, key=lambda training: (training.fit.method, canonical(training.fit)))


def alike_held(found: Sequence[Training], groups: Sequence[Group], baseline: str) -> tuple[list[Training], list[str]]:
    """The trainings that are evaluated on what the baseline's is, by task, and notes on the others.

    A training with another hold-out (a base that leaves examples for tuning) is evaluated on other examples. Without a
    baseline, the smallest hold-out of a task stays.
    """
    held: dict[str, float] = {}
    for task in {training.task for training in found}:
        own = (r.spec.fit.root for g in groups if g.spec.method == baseline for r in g.records)
        shares = {fit.holdout for fit in own if fit.data.task == task}
        held[task] = min(shares or {training.fit.holdout for training in found if training.task == task})
    kept = [training for training in found if training.fit.holdout == held[training.task]]
    rest = [training for training in found if training.fit.holdout != held[training.task]]
    notes = dict.fromkeys(
        f"Not in the wall-clock figure: {t.fit.method} on {t.task} with a hold-out of {t.fit.holdout:.3g}, where the "
        f"others have {held[t.task]:.3g}: evaluated on other examples"
        for t in rest
    )
    return kept, list(notes)


def _held_text(found: Sequence[Training]) -> str:
    """The data of mid-run evaluation, once for all tasks if they agree."""
    tasks = {training.task: bool(training.fit.holdout) for training in found}
    words = {True: "held-out training data", False: "validation data"}
    if len(set(tasks.values())) == 1:
        return words[next(iter(tasks.values()))]
    parts = {share: ", ".join(sorted(task for task in tasks if tasks[task] is share)) for share in (False, True)}
    return " and ".join(f"{words[share]} ({names})" for share, names in parts.items())


def _figure(study: Study, found: Sequence[Training], name: str, title: str, machine: str) -> Drawn:
    labels = distinguish([(t.fit.method, t.task, flatten(canonical(t.fit), ignore=("seed",))) for t in found])
    style = looks(study, labels)

    def fill(axes: Axes, task: str, metric: Metric) -> None:
        for training, label in zip(found, labels, strict=True):
            if training.task == task:
                rows = [[trace[step] for trace in training.traces] for step in training.steps]
                seconds = [summarize([row["seconds"] for row in at_step]).mean for at_step in rows]
                points = [scaled([row[metric.name] for row in at_step], metric) for at_step in rows]
                shown = titled(label, training.fit.method, study.runs.titles)
                line_with_band(axes, seconds, points, shown, style[label])
        few_ticks(axes)

    tasks = sorted({training.task for training in found})
    figure = panel_figure(title, tasks, [METRICS[name] for name in SHOWN], fill, "training (s)")
    counts = sorted({len(training.traces) for training in found})
    low, high = counts[0], counts[-1]
    seeds = f"{low} to {high} seeds" if low < high else f"{low} seed{'' if low == 1 else 's'}"
    caption = (
        f"{title}, {machine}. Mid-run evaluation on {_held_text(found)}, at the mean of the posterior or, for a method "
        f"without one, with its own predictive, against seconds of training without evaluation. Mean over {seeds}; "
        "bands are ± one standard error."
    )
    return Drawn(name, caption, figure)
