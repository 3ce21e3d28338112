"""Cost of a training step, relative to the baseline's: bars over tasks, a marker for every task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from analysis.figures.panels import Drawn
from analysis.figures.style import GREY, MARKERS, PAGE, blank_figure, colour, entitle, legend_below, styled
from analysis.records.fits import chain
from analysis.records.groups import Section, titled
from analysis.records.labels import distinguish, flatten
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from bench.specs import FitSpec, canonical, key

Costs = Mapping[str, Mapping[str, float]]  # training to task to ms per step, mean over seeds


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """The figure of a section; none where it would mix seconds of different machines."""
    costs, bases, machines = step_costs(study, section)
    baseline, nothing = study.baseline, f"No overhead figure for {section.title}"
    several = sorted(task for task, names in bases.items() if len(names) > 1)
    if len(machines) > 1:
        return [], [f"{nothing}: it mixes machines ({', '.join(sorted(machines))})."]
    if several:
        return [], [
            f"{nothing}: the baseline '{baseline}' has several trainings on {', '.join(several)}, so there is no one "
            "step to compare with."
        ]
    if not bases:
        return [], [f"{nothing}: no training of the baseline '{baseline}' is stored."]
    base = {task: next(iter(names)) for task, names in bases.items()}
    return [_figure(study, costs, base, section, machines.pop())], []


def step_costs(study: Study, section: Section) -> tuple[Costs, Mapping[str, set[str]], set[str]]:
    """The milliseconds per step of every training behind a section's results.

    Returns:
        The costs, the names of the baseline's own trainings by task, and the machines they all ran on.
    """
    groups = study.of(section)
    own = {key(r.spec.fit.root) for group in groups if group.spec.method == study.baseline for r in group.records}
    found: dict[str, FitSpec] = {}
    for record in (record for group in groups for record in group.records):
        found.update({key(fit): fit for fit in chain(record.spec.fit)})
    trained, machines = [], set[str]()
    for fit in found.values():
        facts = study.runs.fits.facts(fit)
        if facts is not None and facts.steps and facts.provenance is not None:
            trained.append((fit, 1000 * facts.train_seconds / facts.steps))
            machines.add(facts.provenance.machine)
    alike = [canonical(_without_seed(fit)) for fit, _ in trained]
    labels = distinguish(
        [(fit.method, fit.data.task, flatten(text)) for (fit, _), text in zip(trained, alike, strict=True)]
    )
    times: dict[str, dict[str, list[float]]] = {}
    bases: dict[str, set[str]] = {}
    for (fit, milliseconds), label in zip(trained, labels, strict=True):
        times.setdefault(label, {}).setdefault(fit.data.task, []).append(milliseconds)
        if key(fit) in own:
            bases.setdefault(fit.data.task, set()).add(label)
    costs = {label: {t: summarize(v).mean for t, v in by_task.items()} for label, by_task in times.items()}
    return costs, bases, machines


def _without_seed(fit: FitSpec) -> FitSpec:
    return dataclasses.replace(fit, seed=0, bases=tuple(map(_without_seed, fit.bases)))


def relative(costs: Costs, base: Mapping[str, str]) -> Costs:
    """Each training's cost over that of the one that ``base`` names for the task, on the tasks that have one."""
    return {
        name: {task: ms / costs[base[task]][task] for task, ms in by_task.items() if task in base}
        for name, by_task in costs.items()
    }


def _figure(study: Study, costs: Costs, base: Mapping[str, str], section: Section, machine: str) -> Drawn:
    ratios = {training: by_task for training, by_task in relative(costs, base).items() if by_task}
    tasks = sorted({task for by_task in ratios.values() for task in by_task})
    names = sorted(ratios, key=lambda training: (training not in base.values(), training))
    with styled():
        figure = blank_figure(PAGE * 0.75, 0.24 * len(names) + 1.1)
        axes = figure.subplots()
        means = [summarize(list(ratios[training].values())).mean for training in names]
        axes.barh(range(len(names)), means, 0.7, color="#BBD7EA", zorder=1)
        axes.axvline(1, color=GREY, linewidth=1, linestyle="--", zorder=2)
        step = 0.5 / max(1, len(tasks) - 1)
        for number, task in enumerate(tasks):
            here = [(ratios[training][task], place) for place, training in enumerate(names) if task in ratios[training]]
            shift = (number - (len(tasks) - 1) / 2) * step
            marker, color = MARKERS[number % len(MARKERS)], colour(number)
            x, y = [ratio for ratio, _ in here], [place + shift for _, place in here]
            axes.plot(x, y, marker, color=color, label=task, zorder=3)
        furthest = max(ratio for by_task in ratios.values() for ratio in by_task.values())
        for place, (training, mean) in enumerate(zip(names, means, strict=True)):
            ms = sorted(costs[training][task] for task in tasks if task in ratios[training])
            ends = list(dict.fromkeys(f"{value:.3g}" for value in (ms[0], ms[-1])))
            axes.text(furthest * 1.05, place, f"{mean:.2f}×  ({' to '.join(ends)} ms)", va="center", fontsize=7)
        axes.set_xlim(0, furthest * 1.6)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), [_title(study, training) for training in names])
        axes.set_xlabel(f"time per training step, relative to {_title(study, study.baseline)}")
        axes.grid(visible=False, axis="y")
        entitle(figure, section.title)
        legend_below(figure)
    caption = (
        f"{section.title}, {machine}. Time per training step, over {study.baseline}'s on the same "
        "task: markers are tasks (means over seeds), bars are their mean; in brackets the milliseconds, over tasks. "
        "Mid-run evaluation is not counted. Trainings "
        "that ran in parallel with others shared their machine's memory and caches."
    )
    return Drawn(f"overhead-{section.slug}", caption, figure)


def _title(study: Study, training: str) -> str:
    return titled(training, training.split(" (")[0], study.runs.titles)
