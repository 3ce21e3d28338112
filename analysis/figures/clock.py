"""Accuracy and NLL against seconds of training, the evaluation clock stopped: one line per training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from analysis.figures.panels import ACROSS, Drawn, few_ticks, line_with_band, looks, scaled, task_panels
from analysis.figures.style import legend_below, styled
from analysis.records.fits import fit_facts, machine, trace
from analysis.records.groups import Group, Runs
from analysis.records.labels import distinguish, flatten
from analysis.statistics.metric import metric_of
from analysis.statistics.summary import summarize
from bench.specs import FitSpec, canonical, key

METRICS = ("accuracy", "nll")


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


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section. Refuses to draw seconds of unlike machines beside each other."""
    drawn, notes = [], []
    for section in runs.sections:
        found, left_out = alike_held(trainings(runs, runs.of(section)), runs.of(section), baseline)
        notes += [f"{note} ({section.title})." for note in left_out]
        machines = sorted({name for training in found for name in training.machines})
        if len(machines) > 1:
            notes.append(f"No wall-clock figure for {section.title}: it mixes machines ({', '.join(machines)}).")
        elif found:
            drawn.append(_figure(runs, found, baseline, f"clock-{section.slug}", f"{section.title}, {machines[0]}"))
        else:
            notes.append(
                f"No wall-clock figure for {section.title}: no training was evaluated on its way (eval_every)."
            )
    return drawn, notes


def trainings(runs: Runs, groups: Sequence[Group]) -> list[Training]:
    """The root trainings of groups, each once, that have at least two mid-run evaluations in common."""
    roots = {key(r.spec.fit.root): r.spec.fit.root for g in groups for r in g.records if not g.reference}
    alike: dict[str, list[FitSpec]] = {}
    for root in roots.values():
        alike.setdefault(canonical(dataclasses.replace(root, seed=0)), []).append(root)
    found = []
    for fits in alike.values():
        traces = [{row["step"]: row for row in trace(runs.folder, fit) if "accuracy" in row} for fit in fits]
        facts = [known for fit in fits if (known := fit_facts(runs.folder, fit)) is not None]
        machines = frozenset(machine(known["provenance"]) for known in facts)
        training = Training(fits[0], fits[0].data.task, tuple(rows for rows in traces if rows), machines)
        if training.traces and machines and len(training.steps) > 1:
            found.append(training)
    return sorted(found, key=lambda training: (training.fit.method, canonical(training.fit)))


def alike_held(found: Sequence[Training], groups: Sequence[Group], baseline: str) -> tuple[list[Training], list[str]]:
    """The trainings that are evaluated on what the baseline's is, by task, and notes on the others.

    A training of its own with another hold-out (a base that leaves examples for tuning) is no line beside the others.
    Without a baseline, the smallest hold-out of a task stays.
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
    """What mid-run evaluation was on: for all tasks at once where they are alike."""
    tasks = {training.task: bool(training.fit.holdout) for training in found}
    words = {True: "held-out training data", False: "validation data"}
    if len(set(tasks.values())) == 1:
        return words[next(iter(tasks.values()))]
    parts = {share: ", ".join(sorted(task for task in tasks if tasks[task] is share)) for share in (False, True)}
    return " and ".join(f"{words[share]} ({names})" for share, names in parts.items())


def _figure(runs: Runs, found: Sequence[Training], baseline: str, name: str, title: str) -> Drawn:
    labels = distinguish([(t.fit.method, t.task, flatten(canonical(t.fit), ignore=("seed",))) for t in found])
    style = looks(runs, baseline, labels)
    tasks = sorted({training.task for training in found})
    with styled():
        figure, panels = task_panels(tasks, len(METRICS))
        for training, label in zip(found, labels, strict=True):
            for metric, axes in zip(map(metric_of, METRICS), panels[training.task], strict=True):
                rows = [[trace[step] for trace in training.traces] for step in training.steps]
                seconds = [summarize([row["seconds"] for row in at_step]).mean for at_step in rows]
                points = [scaled([row[metric.name] for row in at_step], metric) for at_step in rows]
                line_with_band(axes, seconds, points, label, style[label])
        for number, column in enumerate(panels.values()):
            for metric, axes in zip(map(metric_of, METRICS), column, strict=True):
                few_ticks(axes)
                if number % ACROSS == 0:
                    axes.set_ylabel(metric.heading)
            column[-1].set_xlabel("training (s)")
        figure.align_ylabels()
        legend_below(figure)
    counts = sorted({len(training.traces) for training in found})
    caption = (
        f"{title}. Mid-run evaluation at the mean on {_held_text(found)}, against seconds of training without "
        f"evaluation. Mean over {' to '.join(map(str, counts))} seeds; bands are ± one standard error."
    )
    return Drawn(name, caption, figure)
